"""What casts to 8 bits lose, counted for one step: the share of values that vanish or are cut off, by product."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_nmm.models.casts import counted_products
from megatron_nmm.parallel.world import World
from megatron_nmm.precision.casts import OPERANDS, Which

Sums = dict[tuple[str, Which], list[int]]
"""Product and operand -> values, underflows, overflows."""


@dataclass(frozen=True)
class CastsReading:
    """One step, the same on every rank; tuples have one entry a product."""

    products: tuple[str, ...]
    """Names, in order of depth (models/casts.py)."""
    underflow: Mapping[Which, tuple[float, ...]]
    """Share of values other than 0 that became 0."""
    overflow: Mapping[Which, tuple[float, ...]]
    """Share of values cut off at the largest."""

    @staticmethod
    def of(sums: Sequence[Sums]) -> "CastsReading":
        """From what each rank counted."""
        total: Sums = {}
        for mine in sums:
            for key, counts in mine.items():
                total[key] = [a + b for a, b in zip(total.get(key, [0, 0, 0]), counts, strict=True)]
        products = tuple(sorted({product for product, _ in total}, key=_depth))

        def shares(column: int) -> dict[Which, tuple[float, ...]]:
            return {
                which: tuple(_share(total.get((product, which)), column) for product in products) for which in OPERANDS
            }

        return CastsReading(products, shares(1), shares(2))


class CastCounts:
    """Counts in the emulated products of a model while a block runs; a frozen layer's gradient may have no counts."""

    def __init__(self, model: torch.nn.Module, world: World) -> None:
        self._products, self._world = list(counted_products(model)), world

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what the block casts. A recomputed pass counts again, which no share shows."""
        for _, counts in self._products:
            counts.start()
        try:
            yield
        finally:
            for _, counts in self._products:
                counts.counting = False

    def reading(self) -> CastsReading:
        """Of all ranks. Collective."""
        mine: Sums = {}
        for product, counts in self._products:
            for which, casts in counts.lost.items():
                lost = torch.stack([torch.stack([each.underflow, each.overflow]) for each in casts]).sum(0).tolist()
                before = mine.get((product, which), [0, 0, 0])
                found = (sum(each.values for each in casts), *lost)
                mine[product, which] = [a + b for a, b in zip(before, found, strict=True)]
            counts.lost = {}
        everyone: list[Sums] = [{}] * self._world.size
        with self._world.waiting("the other ranks' casts"):
            dist.all_gather_object(everyone, mine)
        return CastsReading.of(everyone)


def _share(counts: list[int] | None, column: int) -> float:
    """0 where nothing was cast."""
    return counts[column] / counts[0] if counts and counts[0] else 0.0


ORDER = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
"""Products of a layer, as they run."""


def _depth(product: str) -> tuple[bool, int, int, str]:
    block, layer, *path = product.split(".")
    return block != "vision", int(layer), ORDER.index(path[-1]), product
