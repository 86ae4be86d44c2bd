"""Rows of a weight map: one tensor of ours from one or more of theirs, and back.

A model family is a tuple of rows (checkpoint/families). Every kind goes both ways, and a meta tensor of our shape tells
the shapes of theirs. What ``join`` is given may be read as it is asked for, one after the other, so rows that fill one
tensor from many never hold all of both. Shapes: G query groups, Q queries a group, D head width, H hidden, F MLP width,
V vocabulary, E sparse experts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from megatron_nmm.errors import CheckpointError

Tensors = Sequence[torch.Tensor]


class Row(Protocol):
    """One tensor of ours."""

    @property
    def ours(self) -> str:
        """Its name, as in our checkpoints."""

    @property
    def theirs(self) -> tuple[str, ...]:
        """Names of the tensors it is made of."""

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of other tensors of ours that ``cut`` needs; hardly any row has one."""

    def join(self, theirs: Tensors) -> torch.Tensor:
        """Ours from theirs."""

    def cut(self, ours: torch.Tensor, *beside: torch.Tensor) -> Tensors:
        """Theirs from ours."""


def _filled(theirs: Tensors, count: int) -> torch.Tensor:
    """``count`` tensors of one shape on top of each other, each read, copied and let go."""
    parts: Iterator[torch.Tensor] = iter(theirs)
    first = next(parts)
    out = first.new_empty(count * len(first), *first.shape[1:])
    places = iter(out.split(len(first)))
    next(places).copy_(first)
    del first
    for place in places:
        place.copy_(next(parts))
    return out


class _Alone:
    """A row that looks at no other tensor of ours."""

    beside: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Same(_Alone):
    """The same tensor under another name."""

    ours: str
    source: str

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.source,)

    def join(self, theirs: Tensors) -> torch.Tensor:
        return theirs[0]

    def cut(self, ours: torch.Tensor, *beside: torch.Tensor) -> Tensors:
        return (ours,)


@dataclass(frozen=True)
class Padded(_Alone):
    """A table of ``rows`` rows; ours may have more, which ``join`` leaves out: they keep their first values."""

    ours: str
    source: str
    rows: int

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.source,)

    def join(self, theirs: Tensors) -> torch.Tensor:
        return theirs[0]

    def cut(self, ours: torch.Tensor, *beside: torch.Tensor) -> Tensors:
        return (ours[: self.rows],)


@dataclass(frozen=True)
class Stacked(_Alone):
    """Matrices of the same shape on top of each other: gate and up of a SwiGLU, 2 x [F, H] to [2F, H]."""

    ours: str
    theirs: tuple[str, ...]

    def join(self, theirs: Tensors) -> torch.Tensor:
        return _filled(theirs, len(self.theirs))

    def cut(self, ours: torch.Tensor, *beside: torch.Tensor) -> Tensors:
        return ours.chunk(len(self.theirs))


@dataclass(frozen=True)
class GroupedQKV(_Alone):
    """Query [GQD, H], key [GD, H] and value [GD, H] to megatron-core's [G(Q + 2)D, H]: each group's together."""

    ours: str
    theirs: tuple[str, ...]
    groups: int
    head_width: int

    def join(self, theirs: Tensors) -> torch.Tensor:
        width = theirs[0].shape[1]
        return torch.cat([part.reshape(self.groups, -1, width) for part in theirs], dim=1).reshape(-1, width)

    def cut(self, ours: torch.Tensor, *beside: torch.Tensor) -> Tensors:
        width = ours.shape[1]
        grouped = ours.reshape(self.groups, -1, width)
        queries = grouped.shape[1] - 2 * self.head_width
        parts = grouped.split([queries, self.head_width, self.head_width], dim=1)
        return [part.reshape(-1, width) for part in parts]


@dataclass(frozen=True)
class FusedQKV(_Alone):
    """One matrix of three blocks (all queries, all keys, all values) [3GD, H] to each head's together; or its bias."""

    ours: str
    source: str
    heads: int

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.source,)

    def join(self, theirs: Tensors) -> torch.Tensor:
        width = theirs[0].shape[1:]
        return theirs[0].reshape(3, self.heads, -1, *width).transpose(0, 1).reshape(-1, *width)

    def cut(self, ours: torch.Tensor, *beside: torch.Tensor) -> Tensors:
        width = ours.shape[1:]
        return (ours.reshape(self.heads, 3, -1, *width).transpose(0, 1).reshape(-1, *width),)


@dataclass(frozen=True)
class Filter(_Alone):
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

    def cut(self, ours: torch.Tensor, *beside: torch.Tensor) -> Tensors:
        return (ours.reshape(len(ours), self.channels, self.patch, self.patch),)


@dataclass(frozen=True)
class Batched(_Alone):
    """A tensor that they keep in a batch of one: theirs begins with ``ones`` dimensions of size 1."""

    ours: str
    source: str
    ones: int

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.source,)

    def join(self, theirs: Tensors) -> torch.Tensor:
        return theirs[0].flatten(0, self.ones)

    def cut(self, ours: torch.Tensor, *beside: torch.Tensor) -> Tensors:
        return (ours.reshape(*(1,) * self.ones, *ours.shape),)


@dataclass(frozen=True)
class PerExpert(_Alone):
    """The matrices of every sparse expert, expert after expert, to [E, rows, columns]: gate and up make [E, 2F, H]."""

    ours: str
    theirs: tuple[str, ...]
    experts: int

    def join(self, theirs: Tensors) -> torch.Tensor:
        stacked = _filled(theirs, len(self.theirs))
        return stacked.reshape(self.experts, -1, stacked.shape[-1])

    def cut(self, ours: torch.Tensor, *beside: torch.Tensor) -> Tensors:
        return ours.flatten(0, 1).chunk(len(self.theirs))


@dataclass(frozen=True)
class Chained:
    """A matrix of ours that is a product of theirs, ``second`` after ``first``, where ``first`` is ours, too.

    NaViL's InternLM2 code sends image tokens through the text's output projection and then through their own. Products
    are taken in fp64; the way back solves for ``second``, so it is exact up to rounding, not to the bit.
    """

    ours: str
    text: str
    """Our name of what ``first`` is."""
    first: str
    second: str

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.first, self.second)

    @property
    def beside(self) -> tuple[str, ...]:
        return (self.text,)

    def join(self, theirs: Tensors) -> torch.Tensor:
        first, second = theirs
        return (second.double() @ first.double()).to(second.dtype)

    def cut(self, ours: torch.Tensor, *beside: torch.Tensor) -> Tensors:
        (first,) = beside
        if ours.is_meta:
            return first, torch.empty_like(ours)
        try:
            second = torch.linalg.solve(first.double(), ours.double(), left=False)
        except RuntimeError as fault:  # torch.linalg.LinAlgError is one
            raise CheckpointError(
                f"{self.text} cannot be inverted, and NaViL's InternLM2 code applies it before {self.second}; export "
                "this checkpoint in another family (--family native_multimodal)"
            ) from fault
        return first, second.to(ours.dtype)
