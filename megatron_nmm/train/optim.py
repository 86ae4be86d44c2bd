"""The optimizer step: clip the reduced gradients, move the fp32 weights with AdamW, hand them back to the model.

megatron-core owns everything around the arithmetic: fp32 masters of bf16 weights, sharding over data ranks, the global
gradient norm. Its factory would choose an Adam by what happens to be installed; here its optimizer classes are built
directly around ``AdamW``, so every machine runs the same arithmetic and nothing is patched.
"""

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import torch
import torch.distributed as dist

from megatron_nmm.config import OptimConfig, RunConfig
from megatron_nmm.config.recipes import RECIPES
from megatron_nmm.models.parts import relative_rate
from megatron_nmm.parallel.experts import copy_of_model, is_expert, replicas, split_by_tensor
from megatron_nmm.parallel.virtual import stage_chunks
from megatron_nmm.parallel.world import World
from megatron_nmm.train.adamw import AdamW
from megatron_nmm.train.optimizer_state import fill, sharded
from megatron_nmm.train.schedule import rate
from megatron_nmm.train.shards import Shard, shards

CLIP_EPSILON = 1e-6
"""Keeps the clip factor finite at a zero norm; megatron-core's and torch's value."""


@dataclass(frozen=True)
class Update:
    """What one optimizer step did."""

    learning_rate: float
    """Of the step; a part's own is this times its rate in ``optim.rates``."""
    grad_norm: float
    """Global norm before clipping."""
    finite: bool
    """False: the gradients held an infinity or NaN and the step was skipped, on every rank alike."""


class Optimizer:
    """AdamW over this rank's trainable parameters, in megatron-core's optimizers of the run's precision and layout.

    Sparse experts have an optimizer of their own, because other ranks hold the same weights than of the rest.
    """

    def __init__(self, run: RunConfig, model: torch.nn.Module, world: World) -> None:
        """``model`` is megatron-core's DistributedDataParallel around this rank's stage, frozen as ``run`` says
        (models/freeze.py). A stage may have nothing to train: it takes part in the norm and keeps no state."""
        self._run, self._world, self._model = run, world, model
        sorts = (False, True) if run.model.sparse_layers else (False,)
        self._sections = tuple(_Section.of(run, model, world, expert=expert) for expert in sorts)
        for section in self._sections[:-1]:
            # megatron-core's word: a sharded optimizer hands all weights of the model on, so the last one does it once.
            section.wrapped._defer_param_sync = True

    @property
    def adamws(self) -> tuple[AdamW, ...]:
        """What moves this rank's weights, each with its parameter groups and moments."""
        return tuple(section.adamw for section in self._sections)

    def step(self, step: int) -> Update:
        """Take training step ``step`` (from 1) with the gradients in ``main_grad``; a non-finite norm skips it."""
        run = self._run
        learning_rate = rate(run.schedule, run.optim, run.steps, step, sparse=bool(run.model.sparse_layers))
        for section in self._sections:
            section.wrapped.prepare_grads()
        norm = math.hypot(*(float(section.wrapped.get_grad_norm()) for section in self._sections))
        finite = not self._world.any(not math.isfinite(norm))
        if finite:
            for section in self._sections:
                self._move(section, learning_rate, _clip_divisor(norm, self._run.optim.clip))
        # A gradient left on a parameter would be added to by the next backward pass on top of main_grad.
        self.zero_grad()
        return Update(learning_rate, norm, finite)

    def _move(self, section: "_Section", learning_rate: float, divisor: float) -> None:
        section.adamw.gradient_divisor = divisor
        for group in section.adamw.param_groups:
            group["lr"] = learning_rate * group["rate"]
            group["weight_decay"] = weight_decay(self._run.optim) if group["decay"] else 0.0
        section.wrapped.step_with_ready_grads()

    def zero_grad(self) -> None:
        """Drop every ``.grad``; the buffers behind ``main_grad`` are zeroed by forward_backward."""
        for section in self._sections:
            section.wrapped.zero_grad()

    def sharded_state_dict(self, model_sharded_state_dict: dict[str, Any], is_loading: bool = False) -> dict[str, Any]:
        """The state in one form for every layout and precision (optimizer_state.py). Collective."""
        whole: dict[str, Any] = {}
        for section in self._sections:
            state = sharded(section.wrapped, self._model, model_sharded_state_dict, is_loading, expert=section.expert)
            for key, part in state.items():
                whole[key] = {**whole.get(key, {}), **part} if isinstance(part, dict) else part
        return whole

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a loaded ``sharded_state_dict``; load the model's weights before."""
        for section in self._sections:
            fill(section.wrapped, self._model, state, expert=section.expert)

    def shards(self) -> Iterator[Shard]:
        """This rank's pieces of what trains, to look at; over all ranks each weight occurs once (shards.py)."""
        for section in self._sections:
            yield from shards(section.wrapped, self._model, self._world, expert=section.expert)


@dataclass(frozen=True)
class _Section:
    """The weights that one group of ranks holds alike, and what moves them."""

    expert: bool
    """Sparse experts, or everything else."""
    adamw: AdamW
    wrapped: Any
    """megatron-core's optimizer around ``adamw``."""

    @staticmethod
    def of(run: RunConfig, model: torch.nn.Module, world: World, *, expert: bool) -> "_Section":
        adamw = AdamW(
            parameter_groups(model, run, expert=expert),
            lr=run.optim.learning_rate,
            betas=(run.optim.beta1, run.optim.beta2),
            eps=run.optim.epsilon,
            weight_decay=0.0,
        )
        wrapped = _wrap(adamw, run, model, world, expert=expert)
        # After wrapping: only now are the parameters to be stepped known (masters, shards).
        adamw.allocate_state()
        return _Section(expert, adamw, wrapped)


def parameter_groups(model: torch.nn.Module, run: RunConfig, *, expert: bool = False) -> list[dict[str, Any]]:
    """Trainable parameters, sparse experts' or all others, by relative learning rate, with and without weight decay.

    Every rank has the same groups, whichever parts its stage holds: those of all rates above 0 in ``optim.rates``.
    Norm weights and every other vector (1-D) do not decay; P1 does not say, and this is the field's habit.
    """
    relative = sorted({value for value in astuple(run.optim.rates) if value > 0.0}, reverse=True)
    groups: list[dict[str, Any]] = [
        {"params": [], "rate": value, "decay": decay} for value in relative for decay in (True, False)
    ]
    place = {(group["rate"], group["decay"]): group["params"] for group in groups}
    for name, param in model.named_parameters():
        if param.requires_grad and is_expert(param) == expert:
            place[relative_rate(name, run), param.dim() > 1].append(param)
    return groups


def weight_decay(optim: OptimConfig) -> float:
    """The decay AdamW multiplies with the learning rate.

    P1's fully decoupled form subtracts ``weight_decay * (learning rate / peak) * p``: the peak is divided out here.
    Either form decays a part with a relative rate that much slower, so that the limit of small rates is freezing.
    """
    return optim.weight_decay / optim.learning_rate if optim.decoupled else optim.weight_decay


def _clip_divisor(norm: float, clip: float) -> float:
    """What gradients of global norm ``norm`` are divided by to have norm ``clip`` at most; 1 when clip is 0 (off)."""
    return max(1.0, (norm + CLIP_EPSILON) / clip) if clip > 0.0 else 1.0


def _wrap(adamw: AdamW, run: RunConfig, model: Any, world: World, *, expert: bool) -> Any:
    """megatron-core's optimizer for the run: sharded, with fp32 masters of bf16 weights, or plain fp32."""
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
    from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, FP32Optimizer
    from megatron.core.optimizer.optimizer_config import OptimizerConfig

    bf16, sharded_over_data = run.precision.dtype == "bf16", run.parallel.distributed_optimizer
    config = OptimizerConfig(
        optimizer="adam",
        lr=run.optim.learning_rate,
        bf16=bf16,
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        use_distributed_optimizer=sharded_over_data,
        clip_grad=run.optim.clip,
        # How weights that are kept in 8 bits are cast from the shards of fp32 ones.
        fp8_recipe=RECIPES[run.precision.recipe].engine if run.precision.fp8_parameters else None,
    )
    if sharded_over_data:
        chunks: list[Any] = stage_chunks(model)
        wrapped = DistributedOptimizer(
            adamw,
            config,
            None,  # no gradient scaler: neither fp32 nor bf16 needs one
            AdamW.allocate_state,
            chunks,
            {n: chunk.expert_parallel_buffers if expert else chunk.buffers for n, chunk in enumerate(chunks)},
            replicas(world, expert=expert),
            None,  # a second group for a way of saving that we do not use
            dist.get_rank(copy_of_model(world, expert=expert)),
            0,
        )
    elif bf16:
        wrapped = Float16OptimizerWithFloat16Params(adamw, config, None, AdamW.allocate_state)
    else:
        wrapped = FP32Optimizer(adamw, config, AdamW.allocate_state)
    # Where squared norms are summed: a shard per data rank adds up over the whole job, else replicas hold the same.
    one_copy = copy_of_model(world, expert=expert)
    wrapped.grad_stats_parallel_group = world.groups.intra_dist_opt if sharded_over_data else one_copy
    wrapped.tp_group = split_by_tensor(world, expert=False)
    wrapped.expert_tp_group = split_by_tensor(world, expert=True)
    return wrapped
