"""Large matrix products on several threads: the fastest of three ways to the same bits, found by trying them once.

oneDNN shares a product among threads by tiles of the result, and for some shapes its tile is the whole result: 1,024
rows by 512 columns of depth 3,072 run on one thread, half as wide or twice as high on all of them. The same product as
a batch of one block of rows per thread always runs on all, for a copy of the weight; so do halves of the columns, for a
copy of the result. Which shapes suffer depends on the processor and on oneDNN's release, so each that keeps coming
back is measured.
"""

import time
from collections import Counter
from collections.abc import Callable

import torch

MEETINGS = 16
"""Times a shape is met before it is tried: shapes that change with every batch are not worth it."""
SMALLEST = 1 << 28
"""Multiplications below which a product is left alone: sharing it out is worth less than asking."""
TRIALS = 3
WORTH = 0.9
"""Share of the time of the plain product that another way must stay under to be chosen."""

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def by_rows(rows_MK: torch.Tensor, weight_KN: torch.Tensor) -> torch.Tensor:
    """[M, K] @ [K, N] as a batch of one block of rows per thread; the threads must divide M."""
    threads = torch.get_num_threads()
    blocks = rows_MK.unflatten(0, (threads, -1))
    return torch.bmm(blocks, weight_KN.expand(threads, -1, -1)).flatten(0, 1)


def by_columns(rows_MK: torch.Tensor, weight_KN: torch.Tensor) -> torch.Tensor:
    """[M, K] @ [K, N] in two halves of the columns."""
    out = rows_MK.new_empty(len(rows_MK), weight_KN.shape[1])
    for weight, part in zip(weight_KN.chunk(2, 1), out.chunk(2, 1), strict=True):
        torch.mm(rows_MK, weight, out=part)
    return out


class Products:
    """``matmul`` for linear layers; remembers the way chosen for each shape. One per process."""

    def __init__(self) -> None:
        self.ways: dict[tuple[object, ...], Product] = {}
        self._met: Counter[tuple[object, ...]] = Counter()

    def matmul(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """[..., K] @ [K, N] -> [..., N], bit for bit torch.matmul's result."""
        threads, depth = torch.get_num_threads(), rows.shape[-1]
        count = rows.numel() // max(depth, 1)
        large = rows.is_cpu and weight.dim() == 2 and count * weight.numel() >= SMALLEST
        if not large or threads == 1 or count % threads or not rows.is_contiguous() or torch.is_grad_enabled():
            return torch.matmul(rows, weight)
        flat = rows.view(count, depth)
        key = (count, *weight.shape, weight.stride(), rows.dtype, threads)
        if key not in self.ways:
            self._met[key] += 1
            if self._met[key] < MEETINGS:
                return torch.matmul(rows, weight)
            self.ways[key] = fastest(flat, weight)
        return self.ways[key](flat, weight).view(*rows.shape[:-1], weight.shape[1])


def fastest(rows_MK: torch.Tensor, weight_KN: torch.Tensor) -> Product:
    """torch.mm, or what is clearly faster and gives the same bits: a run must not depend on a clock's mood."""
    plain = torch.mm(rows_MK, weight_KN)
    best: Product = torch.mm
    limit = WORTH * best_seconds(best, rows_MK, weight_KN)
    for way in (by_rows, by_columns):
        if torch.equal(way(rows_MK, weight_KN), plain):
            taken = best_seconds(way, rows_MK, weight_KN)
            limit, best = (taken, way) if taken < limit else (limit, best)
    return best


def best_seconds(way: Product, rows_MK: torch.Tensor, weight_KN: torch.Tensor) -> float:
    """What one product takes at best."""
    taken = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        way(rows_MK, weight_KN)
        taken.append(time.perf_counter() - start)
    return min(taken)
