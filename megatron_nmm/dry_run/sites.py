"""Where in the source something happened, and the places at which a step may wait for its device."""

import contextlib
import os
import sys
from dataclasses import dataclass
from types import FrameType

import torch

from megatron_nmm.device import mcore_on_cpu, meta

OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
BETWEEN = (
    OURS,
    os.path.dirname(torch.__file__) + os.sep,
    *(module.__file__ or "" for module in (mcore_on_cpu, meta, contextlib)),
    "<",
)
"""Starts of paths that are never the place somebody has to mend: torch, and what stands between it and a model."""
PACKAGES = ("megatron_nmm", "megatron", "nmm_kernels")


@dataclass(frozen=True)
class Allowed:
    """A place at which a step waits for its device on purpose."""

    place: str
    """End of the file's path."""
    function: str
    why: str


ALLOWED = (
    Allowed("sparse/dispatcher.py", "token_dispatch", "sizes of what ranks send each other's experts"),
    Allowed("sparse/looped.py", "looped_mlp", "a processor runs experts one after the other; it waits for nobody"),
    Allowed("parallel/schedule.py", "_tokens_of_step", "token counts of the step, before its first microbatch"),
    Allowed("parallel/schedule.py", "_over_all_ranks", "the step's losses, behind its last microbatch"),
    Allowed("optimizer/clip_grads.py", "get_grad_norm_fp32", "the gradient norm decides whether the step is taken"),
    Allowed("train/optim.py", "step", "the gradient norm decides whether the step is taken"),
    Allowed("parallel/world.py", "any", "all ranks agree whether the step is taken"),
    Allowed(
        "pipeline_parallel/p2p_communication.py",
        "_communicate",
        "megatron-core waits behind every exchange between stages (its batch_p2p_sync)",
    ),
)
"""The split sizes are all that a model waits for; the rest stands around the microbatches or between the stages."""


@dataclass(frozen=True)
class Site:
    """A line of source."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"

    @property
    def allowed(self) -> str:
        """Why a step may wait here; empty = it may not."""
        for entry in ALLOWED:
            if self.file.endswith(entry.place) and self.function == entry.function:
                return entry.why
        return ""


def callers() -> list[FrameType]:
    """Frames from the innermost outwards, this package's and torch's left out."""
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(BETWEEN):
            frames.append(frame)
        frame = frame.f_back
    return frames


def site_of(frame: FrameType) -> Site:
    """The line that ``frame`` stands at, its file from the package's name on."""
    return Site(shown(frame.f_code.co_filename), frame.f_lineno, frame.f_code.co_name)


def shown(path: str) -> str:
    """A path from the name of its package on, or as seen from here."""
    start = max(path.rfind(f"{os.sep}{package}{os.sep}") for package in PACKAGES)
    return path[start + 1 :] if start >= 0 else os.path.relpath(path)
