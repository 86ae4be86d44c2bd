"""One step's microbatches through megatron-core's pipeline schedule: forward, backward, gradient reduction.

The loss of a microbatch is a *sum* over its tokens, divided by the token count of all microbatches and data ranks, so
neither the microbatch split nor the layout can change what is learnt (trl, transformers and Megatron users met every
other choice as a bug). Labels are known before the forward pass, hence so is that count: dividing the loss by it spares
the pass over all gradients in which megatron-core would divide them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from megatron_nmm.data.batch import Batch
from megatron_nmm.parallel.context import ContextShare
from megatron_nmm.parallel.losses import LossSums
from megatron_nmm.parallel.unwritten import begin_gradients
from megatron_nmm.parallel.virtual import stage_chunks
from megatron_nmm.parallel.world import World


def forward_backward(
    model: torch.nn.Module, batches: Sequence[Batch], world: World, *, sources: int = 1, forward_only: bool = False
) -> LossSums:
    """Run ``batches`` (this rank's microbatches, all of one shape) and leave reduced gradients in ``main_grad``.

    Returns the loss sums of the whole global batch, equal on every rank. ``sources`` is how many sources the mixture
    has. With ``forward_only`` no graph is built and gradients stay as they are.
    """
    if forward_only:
        batches = _whole_rounds(batches, world)
    else:
        for chunk in stage_chunks(model):
            begin_gradients(chunk, world.device)
    counts = _tokens_of_step(batches, world)
    # megatron-core's forward_only leaves out the backward pass, but still builds its graph.
    with torch.set_grad_enabled(not forward_only):
        step = _Forward(sources, counts, world)
        sums: list[LossSums] = through_stages(model, batches, step, forward_only=forward_only)
    local = sum(sums[1:], sums[0]) if world.is_last_stage else LossSums.zero(sources)
    return _over_all_ranks(local, world)


def through_stages(
    model: torch.nn.Module, batches: Sequence[Batch], step: Callable[..., Any], **settings: Any
) -> list[Any]:
    """megatron-core's schedule of the layout over ``batches``; on the last stage what ``step`` collects of each.

    Virtual stages take a multiple of the pipeline's size of them.
    """
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

    chunks = stage_chunks(model)
    collected: list[Any] = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=[iter(batches) for _ in chunks] if len(chunks) > 1 else iter(batches),
        model=chunks if len(chunks) > 1 else model,
        num_microbatches=len(batches),
        seq_length=batches[0].rows * batches[0].sequence_length,
        micro_batch_size=1,
        **settings,
    )
    return collected


def _whole_rounds(batches: Sequence[Batch], world: World) -> Sequence[Batch]:
    """``batches``, and where virtual stages ask for more of them, repetitions without a supervised token."""
    parallel = world.parallel
    missing = -len(batches) % parallel.pipeline if parallel.virtual_stages > 1 else 0
    empty = replace(batches[0], loss_weight=torch.zeros_like(batches[0].loss_weight))
    return [*batches, *[empty] * missing]


class _Forward:
    """The step function megatron-core calls once a microbatch."""

    def __init__(self, sources: int, counts: torch.Tensor, world: World) -> None:
        """``counts`` as of ``_tokens_of_step``: what the losses are divided by."""
        self.sources, (self.supervised, self.filled) = sources, counts
        self.world = world

    def __call__(self, batches: Iterator[Batch], model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        batch = next(batches)

        def loss_sum(losses_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, LossSums]:
            tokens = torch.full((), len(losses_N), dtype=torch.int, device=losses_N.device)
            share = ContextShare.of(batch, self.world)
            return losses_N.sum() / self.supervised, tokens, LossSums.of(losses_N, batch, self.sources, share)

        return model(batch, loss_scale=1 / self.filled), loss_sum


def _tokens_of_step(batches: Sequence[Batch], world: World) -> torch.Tensor:
    """[2] fp32: tokens with a loss, and tokens that are not padding, in the microbatches of all data ranks; at least 1.

    Ranks of a context group have the same batches and count them whole.
    The first divides the model's loss, the second the losses that routers have of every token.
    """
    supervised = sum(int(batch.loss_weight.count_nonzero()) for batch in batches)
    filled = sum(int(batch.filled.sum()) for batch in batches)
    counts = torch.tensor([supervised, filled], dtype=torch.float64).to(world.device.torch_device)
    with world.waiting("the token counts of the other ranks"):
        dist.all_reduce(counts, group=world.groups.dp)
    return counts.clamp_(min=1).float()


def _over_all_ranks(local: LossSums, world: World) -> LossSums:
    """Sum over data and context ranks; other pipeline stages contribute zeros, tensor ranks hold the same values."""
    both = torch.stack([part.to(world.device.torch_device) for part in (local.loss, local.tokens)])
    with world.waiting("the loss of the other ranks"):
        dist.all_reduce(both, group=world.groups.dp_cp)
        dist.all_reduce(both, group=world.groups.pp)
    return LossSums(*both.cpu())
