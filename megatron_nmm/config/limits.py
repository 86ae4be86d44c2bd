"""A run reads no more packs than ``max_epochs`` of its sources allows: told before anything is loaded."""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from megatron_nmm.config.fault import Fault
from megatron_nmm.config.schema import RunConfig, SourceConfig
from megatron_nmm.config.values import accepts


def limit_faults(run: RunConfig) -> Iterator[Fault]:
    """A fault when every source is limited and all of them together are used up before the last step.

    Reads the reports of the pack plans. What makes no sense by itself, a plan or a value, is a fault found elsewhere. A
    run that goes on may have read other sources before; it is judged when its data is opened.
    """
    if (Path(run.folder) / "config.json").exists():
        return
    sources = run.data.train
    if not all(accepts(int, value) and value >= 1 for value in (run.steps, run.data.global_batch)):
        return
    left = 0
    for source in sources:
        size = _packs(source, run.data.sequence_length)
        if source.max_epochs is None or not accepts(float, source.max_epochs) or size is None:
            return
        left += most_packs(source.max_epochs, size)
    needed = run.steps * run.data.global_batch
    if sources and needed > left:
        yield Fault(
            "data.train",
            f"{run.steps:,} steps of data.global_batch {run.data.global_batch} read {needed:,} packs, and max_epochs "
            f"of the sources in data.train leaves {left:,}",
            f"use at most {left // run.data.global_batch:,} steps, raise data.train.N.max_epochs of a source, or set "
            "one to none",
        )


def most_packs(max_epochs: float, packs: int) -> int:
    """Packs drawn at most of a source of ``packs`` that is read ``max_epochs`` times; a part of a pack is none."""
    # The number as it is written: 0.29 of 100 packs are 29, and the product of floats would make them 28.
    return int(Fraction(repr(float(max_epochs))) * packs)


def _packs(source: SourceConfig, sequence_length: int) -> int | None:
    """Packs of the source's plan; None when its report cannot be read."""
    try:
        report = json.loads((Path(source.plan_path(sequence_length)) / "report.json").read_text(encoding="utf-8"))
        return int(report["packs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
