"""A raw data set of many small units, and a corpus of it written in this process to compare with."""

from pathlib import Path

from megatron_nmm.data.executors.protocol import Executor
from megatron_nmm.data.tokenise import tokenise
from tests.data.corpora import content, mixed_records, quiet, settings, write_images, write_jsonl

UNIT_BYTES = 1500


def inputs(folder: Path) -> list[Path]:
    """Two files, one of several units; text, captions and interleaved records with their images."""
    write_images(folder)
    records = [values | {"id": f"{n}-{values['id']}"} for n, values in enumerate(mixed_records(70))]
    return [write_jsonl(folder / "a.jsonl", records[:60]), write_jsonl(folder / "b.jsonl", records[60:])]


def corpus_by(folder: Path, name: str, executor: Executor | None) -> dict[str, bytes]:
    """Every file of the corpus as ``executor`` writes it."""
    tokenise(inputs(folder), folder / name, settings(folder), quiet, executor, UNIT_BYTES)
    return content(folder / name)
