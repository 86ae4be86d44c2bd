"""What a rank is doing, read off a stack: the step's part, the collective with its size and ranks, and what it is for.

Nothing is recorded while a run goes well. A stack, be it of a living thread or of an error, knows everything.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import PurePath
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

PARTS = {
    "build.py": "building the model",
    "initialise.py": "taking up first weights",
    "resume.py": "resuming",
    "stream.py": "reading data",
    "schedule.py": "forward and backward pass",
    "optim.py": "optimizer step",
    "stop.py": "agreeing whether to stop",
    "evaluate.py": "validation",
    "journal.py": "writing down the step",
    "telemetry.py": "telemetry",
    "save.py": "saving",
}
"""File of ours -> what a rank does in there; the outermost frame that matches decides."""

PURPOSES = (
    ("megatron/core/tensor_parallel/", "the other tensor ranks' part of a layer"),
    ("megatron/core/pipeline_parallel/", "a neighbouring pipeline stage"),
    ("megatron/core/distributed/param_and_grad_buffer.py", "the gradients of the other replicas"),
    ("megatron/core/distributed/finalize_model_grads.py", "gradients that several groups share"),
    ("megatron_nmm/parallel/gradients.py", "the gradients of the other tensor ranks"),
    ("megatron/core/optimizer/clip_grads.py", "the gradient norm"),
    ("megatron/core/optimizer/", "the optimizer's shards"),
    ("megatron/core/transformer/moe/", "the tokens of sparse experts"),
    ("megatron_nmm/models/sparse/", "the tokens of sparse experts"),
    ("megatron_nmm/models/vision/", "the images of the other tensor ranks"),
    ("megatron/core/dist_checkpointing/", "the other ranks' part of a checkpoint"),
    ("torch/distributed/checkpoint/", "the other ranks' part of a checkpoint"),
)
"""Part of a file's path -> what a rank waits for in there; the innermost frame that matches decides."""

COLLECTIVES = "torch/distributed/distributed_c10d.py"
NAMES = {"_coalescing_manager": "several collectives in one"}
"""Functions in there whose names say nothing to a user."""
PACKAGES = ("megatron_nmm", "megatron", "torch")
"""Folders that a shortened path begins with."""


def of_thread(identity: int) -> list[FrameType]:
    """The stack of a living thread, outermost frame first; empty when the thread has ended."""
    frame = sys._current_frames().get(identity)
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def of_error(traceback: TracebackType | None) -> list[FrameType]:
    """The stack on which an error was raised, outermost frame first, from where it is caught."""
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def describe(frames: Sequence[FrameType]) -> str:
    """One phrase, such as ``saving: barrier of ranks 0-3 (the end of step 7)``."""
    part = next((words for frame in frames if (words := _part(frame.f_code.co_filename))), "")
    doing = next((words for frame in frames if (words := _collective(frame))), "")
    purpose = _said(frames) or next(
        (words for frame in reversed(frames) if (words := _purpose(frame.f_code.co_filename))), ""
    )
    if doing and purpose:
        doing = f"{doing} ({purpose})"
    elif purpose:
        doing = f"waits for {purpose}, {_place(frames[-1])}"
    elif not doing and frames:
        doing = f"no collective, {_place(frames[-1])}"
    return ": ".join(filter(None, (part, doing)))


def ranks(numbers: Sequence[int]) -> str:
    """``rank 3``, or ``ranks 0-2, 7``."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"rank{'s' if len(numbers) > 1 else ''} {text}"


@cache
def _part(filename: str) -> str:
    file = PurePath(filename)
    return PARTS.get(file.name, "") if PACKAGES[0] in file.parts else ""


def _collective(frame: FrameType) -> str:
    """The call of torch.distributed that a frame is, in words; "" for any other frame."""
    name = frame.f_code.co_name
    if not frame.f_code.co_filename.endswith(COLLECTIVES) or name.startswith("__"):
        return ""
    values = frame.f_locals
    size = next((words for value in values.values() if (words := _size(value))), "")
    peer = next((f" with rank {values[key]}" for key in ("dst", "src") if isinstance(values.get(key), int)), "")
    return f"{NAMES.get(name, name.strip('_'))}{size}{peer or _members(values.get('group'))}"


def _size(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return ""
    return f" of {value.numel():,} {str(value.dtype).removeprefix('torch.')}"


def _members(group: Any) -> str:
    try:
        return f" among {ranks(dist.get_process_group_ranks(group))}"
    except (RuntimeError, ValueError, KeyError):  # the group is gone already
        return ""


def _said(frames: Sequence[FrameType]) -> str:
    """What the code itself says it waits for: the ``what`` of World's agreements."""
    for frame in frames:
        if frame.f_code.co_filename.endswith(("parallel/world.py", "checkpoint/agree.py")):
            what = frame.f_locals.get("what")
            if isinstance(what, str):
                return what
    return ""


@cache
def _purpose(filename: str) -> str:
    return next((words for part, words in PURPOSES if part in filename), "")


def _place(frame: FrameType) -> str:
    """``megatron_nmm/data/load.py:88, wait``: where the innermost code of the stack is."""
    parts = PurePath(frame.f_code.co_filename).parts
    first = next((i for i, part in enumerate(parts) if part in PACKAGES), len(parts) - 1)
    return f"{'/'.join(parts[first:])}:{frame.f_lineno}, {frame.f_code.co_name}"


def grouped(words: dict[int, str]) -> Iterator[tuple[list[int], str]]:
    """Ranks with the same words together, the smallest group first: who stands elsewhere is read first."""
    groups: dict[str, list[int]] = {}
    for rank, text in sorted(words.items()):
        groups.setdefault(text, []).append(rank)
    yield from sorted(((members, text) for text, members in groups.items()), key=lambda group: len(group[0]))
