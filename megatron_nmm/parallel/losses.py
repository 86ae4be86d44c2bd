"""Loss sums kept apart by context, kind and source, so that the parts always add up to the total."""

from dataclasses import dataclass

import torch

from megatron_nmm.data.batch import Batch
from megatron_nmm.data.raw.record import KINDS
from megatron_nmm.parallel.context import WHOLE, ContextShare

CONTEXTS = ("text", "image")
"""What a token was predicted from, as in ``Batch.context``: text alone, or an image (too) that came before it in its
document."""


@dataclass(frozen=True)
class LossSums:
    """Sums over supervised tokens, not means: they add over microbatches and ranks and divide exactly once."""

    loss: torch.Tensor
    """[contexts, kinds, sources] fp64, nats; on the device until the step's sum comes to the host."""
    tokens: torch.Tensor
    """[contexts, kinds, sources] fp64, supervised tokens."""

    @staticmethod
    def zero(sources: int) -> "LossSums":
        """No tokens yet."""
        return LossSums(*torch.zeros(2, len(CONTEXTS), len(KINDS), sources, dtype=torch.float64))

    @staticmethod
    def of(losses_N: torch.Tensor, batch: Batch, sources: int, share: ContextShare = WHOLE) -> "LossSums":
        """Sort the losses of the supervised tokens of ``batch`` in ``share`` (flat order) by context, kind and source.

        The sum of losses stays on their device: reading it here would wait for the device once a microbatch.
        """
        supervised = share.supervised(batch)
        context, kind, source = (
            share.take(labels)[supervised].cpu() for labels in (batch.context, batch.kind, batch.source)
        )
        cell = (context * len(KINDS) + kind) * sources + source
        shape = (len(CONTEXTS), len(KINDS), sources)
        cells = len(CONTEXTS) * len(KINDS) * sources
        return LossSums(
            torch.zeros(cells, dtype=torch.float64, device=losses_N.device)
            .index_add_(0, cell.to(losses_N.device, non_blocking=True), losses_N.detach().double())
            .view(shape),
            torch.bincount(cell, minlength=cells).double().view(shape),
        )

    def __add__(self, other: "LossSums") -> "LossSums":
        return LossSums(self.loss + other.loss, self.tokens + other.tokens)

    @property
    def mean(self) -> float:
        """Nats per supervised token; nan without tokens."""
        return float(self.loss.sum() / self.tokens.sum())

    def by_context(self) -> dict[str, float]:
        """Mean loss of each context; nan for a context without tokens."""
        return dict(zip(CONTEXTS, self._means(1, 2), strict=True))

    def by_kind(self) -> dict[str, float]:
        """Mean loss of each kind; nan for a kind without tokens."""
        return dict(zip(KINDS, self._means(0, 2), strict=True))

    def by_source(self) -> list[float]:
        """Mean loss of each source in mixture order; nan for a source without tokens."""
        return self._means(0, 1)

    def _means(self, *axes: int) -> list[float]:
        """Means over ``axes``, which leave one."""
        means: list[float] = (self.loss.sum(axes) / self.tokens.sum(axes)).tolist()
        return means
