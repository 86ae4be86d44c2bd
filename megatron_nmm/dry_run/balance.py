"""What the dry run tells the host when it asks for data: rows spread evenly over experts, numbers above every limit.

A tensor without data cannot say how many rows a rank's experts get. The stated balance is an even one, which is what
the balance losses work for; what an uneven one costs is the share of the fullest rank.
"""

from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch

NUMBER = 2.0
"""Any other number that is asked for: a gradient norm above the usual limit, so that clipping takes part."""


def even(rows: int, parts: int) -> list[int]:
    """``rows`` cut into ``parts`` that differ by one at most."""
    return [rows * (part + 1) // parts - rows * part // parts for part in range(parts)]


def _sent_and_received(local: dict[str, Any]) -> list[list[int]]:
    """Rows to and from each rank: every rank sends as many as this one, and to each the same."""
    dispatcher = local["self"]
    each = even(dispatcher._home.numel(), dispatcher.ep_size)
    return [each, each]


def _rows_of_experts(local: dict[str, Any]) -> list[int]:
    return even(len(local["rows_RH"]), local["tokens_per_expert"].numel())


PLANNED: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {
    ("sparse/dispatcher.py", "token_dispatch"): _sent_and_received,
    ("sparse/looped.py", "looped_mlp"): _rows_of_experts,
}
"""(end of a file's path, function) -> what its local variables say about the values it asks for."""


def answer(asked: torch.Tensor, frames: Sequence[FrameType]) -> torch.Tensor:
    """A host tensor in the place of ``asked``, which has no data; ``frames`` are those of who asks, inmost first."""
    for frame in frames:
        for (place, function), values in PLANNED.items():
            if frame.f_code.co_name == function and frame.f_code.co_filename.endswith(place):
                return torch.tensor(values(frame.f_locals), dtype=asked.dtype).reshape(asked.shape)
    number = NUMBER if asked.is_floating_point() else 0
    return torch.full(asked.shape, number, dtype=asked.dtype)
