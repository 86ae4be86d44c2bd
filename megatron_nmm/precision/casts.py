"""How one layer's operands are cast: scales by block, by tensor from its own values, or from earlier ones.

Three operands meet in three products: input x weight (forward), gradient x weight (the input's gradient) and
gradient x input (the weight's gradient). Each operand is cast from its full values every time, never twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.distributed as dist

from megatron_nmm.config import PrecisionConfig
from megatron_nmm.config.recipes import gradient_format
from megatron_nmm.config.schema import Recipe
from megatron_nmm.precision.blocks import Block, Lost, cast_blocks, largest_below, lost_in, shared_exponent
from megatron_nmm.precision.formats import FORMATS, Float8, rounded

Which = Literal["input", "weight", "gradient"]
OPERANDS: tuple[Which, ...] = ("input", "weight", "gradient")
Scales = Mapping[Which, torch.Tensor]


@dataclass(frozen=True)
class Operand:
    """A matrix as a product reads it: ``values`` times ``inverse``."""

    values: torch.Tensor
    """fp32, each one a float8 value, or one times a power of two."""
    inverse: torch.Tensor | None = None
    """[] fp32, applied after the product, as a GPU does; None = 1."""


class Casts(Protocol):
    """The casts of one layer."""

    def scales(self, matrices: Mapping[Which, torch.Tensor], *, training: bool, recomputes: bool) -> Scales:
        """What ``read`` needs to know of ``matrices``, which are cast together; collective over the layer's group.

        ``training``: a backward pass may follow. ``recomputes``: with ``training`` off, this pass comes again later.
        """

    def read(
        self, which: Which, matrix: torch.Tensor, scales: Scales, *, turned: bool = False, count: bool = False
    ) -> tuple[Operand, Lost | None]:
        """[R, C] as a product reads it that sums over its columns, or over its rows when ``turned``."""


BLOCKS: dict[Recipe, dict[Which, Block]] = {
    "fp8_blockwise": {
        "input": Block(1, 128, largest_below),
        "weight": Block(128, 128, largest_below),
        "gradient": Block(1, 128, largest_below),
    },
    "mxfp8": {which: Block(1, 32, shared_exponent) for which in OPERANDS},
}
"""Blocks of each operand along the dimension that a product sums over."""


def formats(precision: PrecisionConfig) -> dict[Which, Float8]:
    """The 8-bit format of each operand."""
    forward, backward = FORMATS["e4m3"], FORMATS[gradient_format(precision)]
    return {"input": forward, "weight": forward, "gradient": backward}


class BlockCasts:
    """One scale a block, from its own values: nothing to remember, nothing to share."""

    def __init__(self, precision: PrecisionConfig) -> None:
        self._blocks, self._formats = BLOCKS[precision.recipe], formats(precision)

    def scales(self, matrices: Mapping[Which, torch.Tensor], *, training: bool, recomputes: bool) -> Scales:
        """None are needed."""
        return {}

    def read(
        self, which: Which, matrix: torch.Tensor, scales: Scales, *, turned: bool = False, count: bool = False
    ) -> tuple[Operand, Lost | None]:
        """As Casts: 128 x 128 blocks are the same both ways, the others are cast anew along the other dimension."""
        block = self._blocks[which]
        block = block.turned if turned else block
        values, lost = cast_blocks(matrix.float(), block, self._formats[which], count=count)
        return Operand(values), lost


class CurrentCasts:
    """One scale a tensor, from its largest magnitude over all ranks of ``group``.

    Transformer Engine takes a shard's own magnitude unless the shard is part of a gathered sequence; shared ones give
    every layout the numbers of one process.
    """

    def __init__(self, precision: PrecisionConfig, group: dist.ProcessGroup | None) -> None:
        """``group`` None = this rank's values alone."""
        self._formats, self._group = formats(precision), group

    def scales(self, matrices: Mapping[Which, torch.Tensor], *, training: bool, recomputes: bool) -> Scales:
        """[] each: the format's largest value over the tensor's."""
        names = list(matrices)
        amaxes = largest(list(matrices.values()), self._group)
        ceilings = amaxes.new_tensor([self._formats[name].largest for name in names])
        fitting = fitting_scale(amaxes, ceilings, torch.ones_like(amaxes))
        return dict(zip(names, fitting.unbind(), strict=True))

    def read(
        self, which: Which, matrix: torch.Tensor, scales: Scales, *, turned: bool = False, count: bool = False
    ) -> tuple[Operand, Lost | None]:
        """As Casts: the same values whichever way they are read."""
        scaled, float8 = matrix.float() * scales[which], self._formats[which]
        values = rounded(scaled, float8)
        return Operand(values, 1 / scales[which]), lost_in(scaled, values, float8, matrix.numel()) if count else None


def fitting_scale(amaxes: torch.Tensor, ceilings: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """What maps ``amaxes`` to ``ceilings``; ``otherwise`` where an amax is 0 or not finite. Element by element."""
    scale = (ceilings / amaxes).clamp(max=torch.finfo(torch.float32).max)
    return torch.where((amaxes > 0) & amaxes.isfinite(), scale, otherwise)


def largest(matrices: list[torch.Tensor], group: dist.ProcessGroup | None) -> torch.Tensor:
    """[n] fp32: the largest magnitude of each matrix over ``group``; 0 of an empty one."""
    amaxes = torch.stack([(m.abs().amax() if m.numel() else m.new_zeros(())).float() for m in matrices])
    if group is not None and dist.get_world_size(group) > 1:
        dist.all_reduce(amaxes, op=dist.ReduceOp.MAX, group=group)
    return amaxes
