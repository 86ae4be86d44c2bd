"""This rank's pieces of the weights that train, with their gradients and moments: what measurements look at.

Over all ranks every weight occurs exactly once, whatever the layout, so sums over the pieces of a job are sums over
the model.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from megatron_nmm.parallel.experts import is_expert, replicas, split_by_tensor
from megatron_nmm.parallel.world import World


@dataclass(frozen=True)
class Shard:
    """A piece of one parameter; its tensors are the live ones."""

    name: str
    """The parameter's name in the wrapped model."""
    gradient: torch.Tensor
    """The reduced gradient, before clipping until the optimizer's step, divided by the clip factor after it."""
    weight: torch.Tensor
    """fp32: the weight that AdamW moves, also where the model computes with a bf16 copy."""
    group: dict[str, Any]
    """AdamW's settings of the piece: lr, betas, eps, step."""
    moments: dict[str, torch.Tensor]
    """AdamW's state: exp_avg, exp_avg_sq."""

    def update(self) -> torch.Tensor:
        """What the last step subtracted because of gradients, weight decay left out (adamw.py has the formula).

        Worked out from the moments: a copy of the weights before the step would cost a weight's memory each.
        """
        beta1, beta2 = self.group["betas"]
        taken = self.group["step"]
        divisor = (self.moments["exp_avg_sq"] / (1 - beta2**taken)).sqrt_().add_(self.group["eps"])
        return self.moments["exp_avg"].div(divisor).mul_(self.group["lr"] / (1 - beta1**taken))

    @property
    def reach(self) -> float:
        """Norm of an update in which every value moves by the learning rate, as Adam's do with steady gradients."""
        return float(self.group["lr"]) * math.sqrt(self.weight.numel())


def shards(wrapped: Any, model: torch.nn.Module, world: World, *, expert: bool) -> Iterator[Shard]:
    """The pieces of ``model`` (megatron-core's DistributedDataParallel) that this rank counts.

    ``wrapped`` is megatron-core's optimizer around AdamW, of sparse experts' weights (``expert``) or of all others.
    """
    from megatron.core.tensor_parallel.layers import param_is_not_tensor_parallel_duplicate
    from megatron.core.transformer.module import param_is_not_shared

    over_data = wrapped.config.use_distributed_optimizer
    groups = {id(param): group for group in wrapped.optimizer.param_groups for param in group["params"]}
    place = _sharded_place if over_data else _whole_place
    for name, param in model.named_parameters():
        if not param.requires_grad or is_expert(param) != expert:
            continue
        first = over_data or replicas(world, expert=expert).rank() == 0
        tensor = split_by_tensor(world, expert=expert)
        if first and param_is_not_shared(param) and param_is_not_tensor_parallel_duplicate(param, tensor):
            for weight, gradient in place(wrapped, param):
                yield Shard(name, gradient, weight.detach(), groups[id(weight)], wrapped.optimizer.state[weight])


def _whole_place(wrapped: Any, param: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(the tensor AdamW steps, its gradient): the fp32 master of a bf16 weight, else the weight itself."""
    yield getattr(param, "main_param", param), param.main_grad


def _sharded_place(wrapped: Any, param: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same of this data rank's slice of ``param``; nothing where all of it lies with other ranks."""
    if param not in wrapped.model_param_group_index_map:
        return
    group, place = wrapped.model_param_group_index_map[param]
    mine = wrapped._get_model_param_range_map(param)["param"]
    yield wrapped.optimizer.param_groups[group]["params"][place], param.main_grad.view(-1)[mine.start : mine.end]
