"""One step's microbatches through megatron-core's pipeline schedule: forward, backward, gradient reduction.

The loss of a microbatch is handed over as a *sum* together with its token count. megatron-core adds the counts of all
microbatches and data ranks and divides the gradients once, so neither the microbatch split nor the layout can change
what is learnt (trl, transformers and Megatron users met every other choice as a bug).
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist

from megatron_nmm.data.batch import Batch
from megatron_nmm.parallel.losses import LossSums
from megatron_nmm.parallel.world import World


def forward_backward(
    model: torch.nn.Module, batches: Sequence[Batch], world: World, *, sources: int = 1, forward_only: bool = False
) -> LossSums:
    """Run ``batches`` (this rank's microbatches, all of one shape) and leave reduced gradients in ``main_grad``.

    Returns the loss sums of the whole global batch, equal on every rank. ``sources`` is how many sources the mixture
    has. With ``forward_only`` no graph is built and gradients stay as they are.
    """
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

    if not forward_only:
        model.zero_grad_buffer()  # type: ignore[operator]
    scale = _supervised_share(batches, world) if cast(Any, model).module.balances else None
    # megatron-core's forward_only leaves out the backward pass, but still builds its graph.
    with torch.set_grad_enabled(not forward_only):
        sums: list[LossSums] = get_forward_backward_func()(
            forward_step_func=_Forward(sources, scale),
            data_iterator=iter(batches),
            model=model,
            num_microbatches=len(batches),
            seq_length=batches[0].rows * batches[0].sequence_length,
            micro_batch_size=1,
            forward_only=forward_only,
            collect_non_loss_data=False,
        )
    local = sum(sums, LossSums.zero(sources)) if world.is_last_stage else LossSums.zero(sources)
    return _over_all_ranks(local, world)


class _Forward:
    """The step function megatron-core calls once a microbatch."""

    def __init__(self, sources: int, loss_scale: torch.Tensor | None) -> None:
        self.sources, self.loss_scale = sources, loss_scale

    def __call__(self, batches: Iterator[Batch], model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        batch = next(batches)

        def loss_sum(losses_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, LossSums]:
            tokens = torch.tensor(len(losses_N), dtype=torch.int, device=losses_N.device)
            return losses_N.sum(), tokens, LossSums.of(losses_N, batch, self.sources)

        return model(batch, loss_scale=self.loss_scale), loss_sum


def _supervised_share(batches: Sequence[Batch], world: World) -> torch.Tensor:
    """[] fp32: supervised tokens per token, padding left out, over the global batch.

    Gradients are divided by the supervised tokens; a loss that is a mean over all tokens is multiplied by this.
    """
    supervised = sum(int((batch.loss_weight > 0).sum()) for batch in batches)
    filled = sum(int(batch.filled.sum()) for batch in batches)
    counts = torch.tensor([supervised, filled], dtype=torch.float64).to(world.device.torch_device)
    with world.waiting("the token counts of the other ranks"):
        dist.all_reduce(counts, group=world.groups.dp)
    return (counts[0] / counts[1].clamp(min=1)).float()


def _over_all_ranks(local: LossSums, world: World) -> LossSums:
    """Sum over data ranks; the other pipeline stages contribute zeros and tensor ranks hold the same values."""
    both = torch.stack([local.loss, local.tokens]).to(world.device.torch_device)
    with world.waiting("the loss of the other ranks"):
        dist.all_reduce(both, group=world.groups.dp)
        dist.all_reduce(both, group=world.groups.pp)
    return LossSums(*both.cpu())
