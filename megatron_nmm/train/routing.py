"""Where routers send the tokens of text and of images: choices of each sparse expert, counted by hooks for one step.

L sparse layers, E experts, K choices a token. Padding is not counted. P1 is described in megatron_nmm/__init__.py.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, cast

import torch

from megatron_nmm.config import ModelConfig
from megatron_nmm.models.sparse.plan import IMAGE, PADDING, TEXT
from megatron_nmm.models.sparse.router import SparseRouter
from megatron_nmm.parallel.world import World

BALANCE, Z, TOKENS = range(3)
"""Columns of the sums of losses."""


@dataclass(frozen=True)
class LayerRouting:
    """One sparse layer in one step."""

    layer: int
    """Decoder layer, from 1."""
    text: tuple[int, ...]
    """[E] choices of each expert by text tokens; those that lay out images are text."""
    image: tuple[int, ...]
    """[E] the same by image tokens."""
    idle: tuple[int, ...]
    """[E] measured steps in a row, this one included, in which the expert got no token."""
    balance: float
    """Balance loss, mean over tokens, unweighted: 1 where loads or scores are even."""
    z: float
    """z-loss, mean over tokens, unweighted."""

    @property
    def load(self) -> tuple[float, ...]:
        """[E] each expert's share of all choices; nan without any."""
        return _shares([text + image for text, image in zip(self.text, self.image, strict=True)])

    @property
    def load_entropy(self) -> float:
        """Entropy of ``load`` relative to log E: 1 = even, 0 = all tokens to one expert."""
        return _bits(self.load) / math.log2(len(self.load)) if len(self.load) > 1 else 1.0

    @property
    def peak(self) -> float:
        """Load of the most loaded expert over the mean load."""
        return max(self.load) * len(self.load)

    @property
    def dead(self) -> tuple[int, ...]:
        """Experts, from 0, that got no token in this step."""
        return tuple(expert for expert, steps in enumerate(self.idle) if steps)

    @property
    def image_shares(self) -> tuple[float, ...]:
        """[E] share of image tokens among each expert's; nan where it got none."""
        return tuple(
            image / (text + image) if text + image else math.nan
            for text, image in zip(self.text, self.image, strict=True)
        )

    @property
    def specialization(self) -> float:
        """P1's score (section on MoEs): mean over experts with tokens of 1 - H(image share), H in bits.

        1 = each expert serves one modality, 0 = every expert has as many image tokens as text tokens. Without any
        specialization it is 1 - H(image share of the step), which is 0 only where both are equally frequent:
        ``mutual_information`` does not have this floor.
        """
        scores = [1.0 - _bits((share, 1.0 - share)) for share in self.image_shares if not math.isnan(share)]
        return fmean(scores) if scores else math.nan

    @property
    def deviation(self) -> float:
        """P1's other score (appendix E): mean over modalities and experts of |share of the modality's choices - 1/E|.

        2 (E - 1) / E^2 where each modality has one expert, 0 where its tokens spread evenly.
        """
        even = 1.0 / len(self.text)
        return fmean(abs(share - even) for counts in self._met for share in _shares(counts)) if self._met else math.nan

    @property
    def mutual_information(self) -> float:
        """Bits that a choice's expert tells about its token's modality: 0 = nothing, at most H(modality)."""
        of_modality = _shares([sum(counts) for counts in self._met])
        within = sum(share * _bits(_shares(counts)) for share, counts in zip(of_modality, self._met, strict=True))
        return max(0.0, _bits(self.load) - within) if self._met else math.nan

    @property
    def _met(self) -> list[tuple[int, ...]]:
        """Counts of the modalities that occur."""
        return [counts for counts in (self.text, self.image) if sum(counts)]


@dataclass(frozen=True)
class RoutingReading:
    """One step's routing, the same on every rank."""

    layers: tuple[LayerRouting, ...]
    """Sparse layers, first to last."""

    @staticmethod
    def of(
        layers: Sequence[int], choices: torch.Tensor, losses: torch.Tensor, before: "RoutingReading | None" = None
    ) -> "RoutingReading":
        """From sums over all ranks: numbers of the sparse layers, ``choices`` [L, 2, E] and ``losses`` [L, 3].

        ``before`` is the measurement before this one: experts that were idle then may be so still.
        """
        waited = [layer.idle for layer in before.layers] if before else [(0,) * choices.shape[2]] * len(layers)
        read = []
        for layer, (text, image), sums, idle in zip(layers, choices.tolist(), losses.tolist(), waited, strict=True):
            still = (
                0 if used else steps + 1
                for used, steps in zip(map(sum, zip(text, image, strict=True)), idle, strict=True)
            )
            tokens = sums[TOKENS] or math.nan
            counts = tuple(map(int, text)), tuple(map(int, image))
            read.append(LayerRouting(layer, *counts, tuple(still), sums[BALANCE] / tokens, sums[Z] / tokens))
        return RoutingReading(tuple(read))


class RoutingSums:
    """Sums of one step over this rank's tokens; those of all ranks add up to the step's, each token once.

    Tensor ranks hold tokens of their own: sparse layers ask for sequence parallelism (config/rules_sparse.py).
    """

    def __init__(self, model: ModelConfig, world: World) -> None:
        self.layers = tuple(layer + 1 for layer in model.sparse_layers)
        self._recompute = world.parallel.recompute == "full"
        options: Any = {"dtype": torch.float64, "device": world.device.torch_device}
        # Padding and the expert that is none have places too: nothing has to be left out, and no host waits.
        self._choices = torch.zeros(len(self.layers), PADDING + 1, model.sparse.experts + 1, **options)
        self._losses = torch.zeros(len(self.layers), 3, **options)

    @property
    def sums(self) -> torch.Tensor:
        """What ``reading`` takes after it was summed over all ranks, flat."""
        return torch.cat([self._choices.flatten(), self._losses.flatten()])

    def reading(self, sums: torch.Tensor, before: RoutingReading | None) -> RoutingReading:
        """Of the ``sums`` of all ranks."""
        choices, losses = sums.split([self._choices.numel(), self._losses.numel()])
        choices = choices.view_as(self._choices)[:, [TEXT, IMAGE], :-1]
        return RoutingReading.of(self.layers, choices, losses.view_as(self._losses), before)

    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Add up what the routers of ``model`` do while the block runs, each microbatch once."""
        handles = [
            layer.mlp.router.register_forward_hook(partial(self._add, self.layers.index(layer.layer_number)))
            for layer in cast(Any, model).module.decoder.layers
            if layer.layer_number in self.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, place: int, router: SparseRouter, inputs: Any, output: Any) -> None:
        """After a pass through the router of the sparse layer at ``place``."""
        repeats = self._recompute and torch.is_grad_enabled()
        if not repeats:
            experts_TK: Any = router.experts
            kind_T1 = router.plan.sparse.kind[:, None]
            flat = (kind_T1 * self._choices.shape[2] + experts_TK).flatten()
            self._choices[place].view(-1).index_add_(0, flat, self._choices.new_ones(()).expand(len(flat)))
        if torch.is_grad_enabled() and router.losses is not None:
            # Of the pass that builds a graph, which under recomputation is the one that repeats.
            tokens = (router.plan.sparse.kind != PADDING).sum()
            self._losses[place] += torch.stack([*router.losses, tokens])


def _shares(counts: Sequence[int]) -> tuple[float, ...]:
    """Of the sum; nan where it is 0."""
    total = sum(counts)
    return tuple(count / total if total else math.nan for count in counts)


def _bits(shares: Sequence[float]) -> float:
    """Entropy of ``shares``, which sum to 1."""
    return sum(share * math.log2(1.0 / share) for share in shares if share)
