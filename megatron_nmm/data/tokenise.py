"""Turns raw inputs into a corpus folder: one shard per unit of input, finished shards kept, corpus.json written last.

``<corpus>/shards/00000/{tokens.bin,tokens.idx,images.bin,images.idx,samples.parquet,rejected.parquet,shard.json}``
and ``<corpus>/corpus.json``, which names the shards in order. Later shards join by being listed there, without a copy.
The bytes depend on inputs and settings alone, not on the number of workers or where they run.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_nmm import __version__
from megatron_nmm.data.executors.local import LocalExecutor
from megatron_nmm.data.executors.protocol import Executor, Job
from megatron_nmm.data.json_file import read_json, write_json
from megatron_nmm.data.raw.units import Unit, plan_units, unit_identity
from megatron_nmm.data.settings import PARTIAL, SHARD_VERSION, Settings
from megatron_nmm.errors import DataError
from megatron_nmm.files.lock import hold

CORPUS_FORMAT = "megatron_nmm corpus"
CORPUS_VERSION = 1

Progress = Callable[[int, int, int], None]
"""Told (bytes of all inputs done, bytes of all inputs, samples written) now and then."""


def tokenise(
    inputs: Sequence[str | Path],
    output: Path,
    settings: Settings,
    progress: Progress,
    executor: Executor | None = None,
    unit_bytes: int | None = None,
) -> dict[str, Any]:
    """Write or continue the corpus ``output`` and return the content of its corpus.json.

    ``inputs`` are files, folders or URLs (data/raw); ``executor`` None means this process. ``unit_bytes`` is the size
    of a shard's input (None: by the file). Raises DataError when an input is missing or given twice, the output holds a
    corpus of other settings or inputs, a worker dies or the disk refuses, and FolderInUse when another process writes
    there; finished shards are intact in every case.
    """
    names = [str(name) for name in inputs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"input {', '.join(twice)} is given twice; give each once: a mixture can repeat a corpus")
    units = plan_units(names, unit_bytes)
    try:
        with hold(output):
            return _write(units, output, settings, progress, executor or LocalExecutor())
    except OSError as error:
        raise DataError(
            f"writing {output} failed: {error.strerror or error}; finished shards are kept: "
            "make room or fix the permissions, then run the same command again"
        ) from error


def _write(
    units: Sequence[Unit], output: Path, settings: Settings, progress: Progress, executor: Executor
) -> dict[str, Any]:
    jobs = [Job(number, unit, output / "shards" / f"{number:05d}") for number, unit in enumerate(units)]
    (output / "shards").mkdir(exist_ok=True)
    manifests = _finished(jobs, output, settings)
    tell = _progress_of(jobs, manifests, progress)
    try:
        open_jobs = [job for job in jobs if job.number not in manifests]
        for number, manifest in executor.run(open_jobs, settings, tell):
            manifests[number] = manifest
            tell(number, units[number].bytes, manifest["counts"]["samples"])
    finally:
        _sweep(output / "shards")
    corpus = _corpus_json([manifests[job.number] for job in jobs], settings)
    write_json(output / "corpus.json", corpus)
    return corpus


def _finished(jobs: Sequence[Job], output: Path, settings: Settings) -> dict[int, dict[str, Any]]:
    """Number -> manifest of every finished shard.

    All are checked before anything is written: a refusal leaves the folder as it was.
    """
    _sweep(output / "shards")
    found = sorted(path for path in (output / "shards").iterdir() if path.is_dir())
    known = {job.folder: job for job in jobs}
    if surplus := [path.name for path in found if path not in known]:
        raise DataError(
            f"{output} has finished shard {surplus[-1]} but the inputs make {len(jobs)} shards; "
            "give the earlier inputs too, or use a new --output"
        )
    return {known[folder].number: _check(folder, known[folder].unit, output, settings) for folder in found}


def _sweep(shards: Path) -> None:
    """Remove what killed or stopped workers left half-written."""
    for path in shards.glob(f"*{PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)


def _progress_of(
    jobs: Sequence[Job], manifests: dict[int, dict[str, Any]], progress: Progress
) -> Callable[[int, int, int], None]:
    """Adds up what the jobs report."""
    total = sum(job.unit.bytes for job in jobs)
    done = {number: (jobs[number].unit.bytes, manifest["counts"]["samples"]) for number, manifest in manifests.items()}

    def tell(number: int, reached: int, samples: int) -> None:
        done[number] = (reached, samples)
        progress(sum(own for own, _ in done.values()), total, sum(own for _, own in done.values()))

    return tell


IDENTITY: tuple[tuple[str, str, str], ...] = (
    ("source", "is a corpus of source", "use --source {found} or a new --output"),
    ("tokenizer_sha256", "was tokenised with another tokenizer, sha256", "use that one or a new --output"),
    ("image_rule", "was tokenised with image rule", "use the same image options or a new --output"),
    ("schema", "was tokenised with schema", "use the same --schema or a new --output"),
    ("verify_images", "was tokenised with --verify-images", "use --verify-images {found} or a new --output"),
)
"""What shards of one corpus share: key of the manifest, what to say when it differs, remedy."""


def _check(folder: Path, unit: Unit, output: Path, settings: Settings) -> dict[str, Any]:
    """The manifest of a finished shard; raises DataError unless ``unit`` and ``settings`` would give the same one."""
    manifest = read_json(folder / "shard.json", f"remove {folder} and run again")
    if manifest.get("version") != SHARD_VERSION:
        raise DataError(
            f"{folder} has format version {manifest.get('version')}, not {SHARD_VERSION}; use a new --output"
        )
    wanted = settings.identity()
    for key, fact, remedy in IDENTITY:
        if (found := manifest[key]) != wanted[key]:
            raise DataError(f"{output} {fact} {found!r}, not {wanted[key]!r}; {remedy.format(found=found)}")
    identity = unit_identity(unit)
    if (made_from := manifest["input"]) != identity:
        raise DataError(
            f"finished shard {folder} was made from {made_from['name']} ({made_from['bytes']} bytes, "
            f"{made_from['first']} to {made_from['last']}), which differs from {unit.input} ({identity['bytes']} "
            f"bytes, {identity['first']} to {identity['last']}); keep inputs unchanged and in order, "
            "append new ones at the end, or use a new --output"
        )
    return manifest


def _corpus_json(manifests: list[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """The content of corpus.json. ``fingerprint`` changes whenever a sample number could mean another sample."""
    counts: Counter[str] = Counter()
    for manifest in manifests:
        counts.update(manifest["counts"])
    keys = ("input", "counts", "files", "records_sha256")
    shards = [
        {"folder": f"shards/{number:05d}", **{key: manifest[key] for key in keys}}
        for number, manifest in enumerate(manifests)
    ]
    content = json.dumps([settings.identity(), shards], sort_keys=True).encode()
    return {
        "format": CORPUS_FORMAT,
        "version": CORPUS_VERSION,
        "tool_version": __version__,
        "source": settings.source,
        "tokenizer": {
            "file": settings.tokenizer.path.name,
            "sha256": settings.tokenizer.sha256,
            "size": settings.tokenizer.size,
            "special": settings.tokenizer.special,
        },
        "image_rule": settings.rule.to_json(),
        "schema": None if settings.schema is None else settings.schema.to_json(),
        "verify_images": settings.verify,
        "counts": dict(sorted(counts.items())),
        "shards": shards,
        "fingerprint": hashlib.sha256(content).hexdigest(),
    }
