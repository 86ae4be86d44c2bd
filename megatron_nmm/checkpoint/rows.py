"""Rows of a weight map: one tensor of ours from one or more of theirs, and back.

A model family is a tuple of rows (checkpoint/families). Every kind goes both ways, and both are plain views and copies,
so a meta tensor of our shape tells the shapes of theirs. Shapes: G query groups, Q queries a group, D head width,
H hidden, F MLP width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Tensors = Sequence[torch.Tensor]


class Row(Protocol):
    """One tensor of ours."""

    @property
    def ours(self) -> str:
        """Its name, as in our checkpoints."""

    @property
    def theirs(self) -> tuple[str, ...]:
        """Names of the tensors it is made of."""

    def join(self, theirs: Tensors) -> torch.Tensor:
        """Ours from theirs."""

    def cut(self, ours: torch.Tensor) -> Tensors:
        """Theirs from ours."""


@dataclass(frozen=True)
class Same:
    """The same tensor under another name."""

    ours: str
    source: str

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.source,)

    def join(self, theirs: Tensors) -> torch.Tensor:
        return theirs[0]

    def cut(self, ours: torch.Tensor) -> Tensors:
        return (ours,)


@dataclass(frozen=True)
class Padded:
    """A table of ``rows`` rows; ours may have more, which ``join`` leaves out: they keep their first values."""

    ours: str
    source: str
    rows: int

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.source,)

    def join(self, theirs: Tensors) -> torch.Tensor:
        return theirs[0]

    def cut(self, ours: torch.Tensor) -> Tensors:
        return (ours[: self.rows],)


@dataclass(frozen=True)
class Stacked:
    """Matrices of the same shape on top of each other: gate and up of a SwiGLU, 2 x [F, H] to [2F, H]."""

    ours: str
    theirs: tuple[str, ...]

    def join(self, theirs: Tensors) -> torch.Tensor:
        return torch.cat(list(theirs))

    def cut(self, ours: torch.Tensor) -> Tensors:
        return ours.chunk(len(self.theirs))


@dataclass(frozen=True)
class GroupedQKV:
    """Query [GQD, H], key [GD, H] and value [GD, H] to megatron-core's [G(Q + 2)D, H]: each group's together."""

    ours: str
    theirs: tuple[str, ...]
    groups: int
    head_width: int

    def join(self, theirs: Tensors) -> torch.Tensor:
        width = theirs[0].shape[1]
        return torch.cat([part.reshape(self.groups, -1, width) for part in theirs], dim=1).reshape(-1, width)

    def cut(self, ours: torch.Tensor) -> Tensors:
        width = ours.shape[1]
        grouped = ours.reshape(self.groups, -1, width)
        queries = grouped.shape[1] - 2 * self.head_width
        parts = grouped.split([queries, self.head_width, self.head_width], dim=1)
        return [part.reshape(-1, width) for part in parts]


@dataclass(frozen=True)
class FusedQKV:
    """One matrix of three blocks (all queries, all keys, all values) [3GD, H] to each head's together."""

    ours: str
    source: str
    heads: int

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.source,)

    def join(self, theirs: Tensors) -> torch.Tensor:
        width = theirs[0].shape[1]
        return theirs[0].reshape(3, self.heads, -1, width).transpose(0, 1).reshape(-1, width)

    def cut(self, ours: torch.Tensor) -> Tensors:
        width = ours.shape[1]
        return (ours.reshape(self.heads, 3, -1, width).transpose(0, 1).reshape(-1, width),)


@dataclass(frozen=True)
class Filter:
    """A convolution over whole patches [H, C, p, p] to the matrix it is [H, C p p]."""

    ours: str
    source: str
    channels: int
    patch: int

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.source,)

    def join(self, theirs: Tensors) -> torch.Tensor:
        return theirs[0].flatten(1)

    def cut(self, ours: torch.Tensor) -> Tensors:
        return (ours.reshape(len(ours), self.channels, self.patch, self.patch),)
