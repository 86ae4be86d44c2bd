"""Loss sums kept apart by kind and source, so that the parts always add up to the total."""

from dataclasses import dataclass

import torch

from megatron_nmm.data.batch import Batch
from megatron_nmm.data.raw.record import KINDS


@dataclass(frozen=True)
class LossSums:
    """Sums over supervised tokens, not means: they add over microbatches and ranks and divide exactly once."""

    loss: torch.Tensor
    """[kinds, sources] fp64, nats."""
    tokens: torch.Tensor
    """[kinds, sources] fp64, supervised tokens."""

    @staticmethod
    def zero(sources: int) -> "LossSums":
        """No tokens yet."""
        return LossSums(*torch.zeros(2, len(KINDS), sources, dtype=torch.float64))

    @staticmethod
    def of(losses_N: torch.Tensor, batch: Batch, sources: int) -> "LossSums":
        """Sort the losses of ``batch``'s supervised tokens (flat order) by kind and source."""
        supervised = batch.loss_weight.reshape(-1).nonzero().squeeze(1)
        cell = (batch.kind.reshape(-1)[supervised] * sources + batch.source.reshape(-1)[supervised]).cpu()
        cells = len(KINDS) * sources
        values = losses_N.detach().double().cpu()
        return LossSums(
            torch.zeros(cells, dtype=torch.float64).index_add_(0, cell, values).view(-1, sources),
            torch.bincount(cell, minlength=cells).double().view(-1, sources),
        )

    def __add__(self, other: "LossSums") -> "LossSums":
        return LossSums(self.loss + other.loss, self.tokens + other.tokens)

    @property
    def mean(self) -> float:
        """Nats per supervised token; nan without tokens."""
        return float(self.loss.sum() / self.tokens.sum())

    def by_kind(self) -> dict[str, float]:
        """Mean loss of each kind; nan for a kind without tokens."""
        return dict(zip(KINDS, (self.loss.sum(1) / self.tokens.sum(1)).tolist(), strict=True))

    def by_source(self) -> list[float]:
        """Mean loss of each source in mixture order; nan for a source without tokens."""
        means: list[float] = (self.loss.sum(0) / self.tokens.sum(0)).tolist()
        return means
