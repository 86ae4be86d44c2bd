"""A finished branch as a point of the law, read from what its run wrote down."""

from pathlib import Path

from megatron_nmm.errors import DataError
from megatron_nmm.files import step_lines
from megatron_nmm.files.step_lines import Record
from megatron_nmm.scaling.point import Point, study_flops
from megatron_nmm.scaling.sweep.cost import sizes
from megatron_nmm.scaling.sweep.expand import Branch, Trunk

METRICS = "metrics.jsonl"
TAIL = 1 << 14
"""Bytes from the end of a metrics file that hold its last line."""


def outcome(trunk: Trunk, branch: Branch) -> Point | None:
    """The point of ``branch``; None while its last validation is not there.

    D and Dv are what the run read, the trunk's steps included, without padding. Raises DataError when the run diverged
    or its records do not tell.
    """
    run = branch.run
    path = Path(run.folder) / METRICS
    if last_step(path) < run.steps:
        return None
    records = step_lines.read(path)
    ends = [one for one in records if one.get("event") == "validation" and one["step"] == run.steps]
    if not ends:
        return None
    steps = [one for one in records if one.get("event") == "step"]
    losses = _losses(path, ends[-1])
    counted = sizes(run.model)
    try:
        tokens = float(sum(one["read_tokens"] for one in steps))
        vision_tokens = float(sum(one["read_image_tokens"] for one in steps))
        flops, seconds = float(sum(one["flops"] for one in steps)), sum(one["seconds"] for one in steps)
    except KeyError as error:
        raise DataError(f"{path} has steps without {error}: an older version wrote it; remove the folder") from None
    sparse = run.model.sparse
    return Point(
        run=run.name,
        study=trunk.study,
        family=trunk.model.family,
        size=trunk.model.size,
        mixture=trunk.mixture.label,
        seed=run.seed,
        active=counted.active,
        total=counted.total,
        vision=counted.vision,
        tokens=tokens,
        vision_tokens=vision_tokens,
        flops=study_flops(counted.active, counted.vision, tokens, vision_tokens),
        counted_flops=flops,
        losses=losses,
        experts=sparse.experts or 1,
        top_k=sparse.top_k if sparse.experts else 1,
        seconds=seconds,
    )


def last_step(path: Path) -> int:
    """The step of the last whole line of a metrics file, 0 without one; reads its end alone."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL))
            lines = stream.read().splitlines(keepends=True)
    except OSError:
        return 0
    for line in reversed(lines):
        if line.endswith(b"\n") and (record := step_lines.parse(line)) is not None:
            return int(record["step"])
    return 0


def _losses(path: Path, validation: Record) -> dict[str, float]:
    """Loss of every kind that was validated."""
    parts = {kind: part["loss"] for kind, part in validation["kinds"].items() if part["tokens"]}
    if diverged := [kind for kind, loss in parts.items() if loss is None]:
        raise DataError(
            f"{path} has no finite loss on {', '.join(diverged)} at step {validation['step']}: the run diverged; use a "
            "lower learning rate or leave the run out"
        )
    if not parts:
        raise DataError(f"{path} ends without a validation loss; give the runs evaluate.sources")
    return parts
