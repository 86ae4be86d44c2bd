"""Turns raw input files into a corpus folder: one shard per input, finished shards kept, corpus.json written last.

``<corpus>/shards/00000/{tokens.bin,tokens.idx,images.bin,images.idx,samples.parquet,rejected.parquet,shard.json}``
and ``<corpus>/corpus.json``, which names the shards in order. Later shards join by being listed there, without a copy.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_nmm import __version__
from megatron_nmm.data.json_file import read_json, write_json
from megatron_nmm.data.shard import SHARD_VERSION, Settings, input_identity, write_shard
from megatron_nmm.errors import DataError
from megatron_nmm.files.lock import hold

CORPUS_FORMAT = "megatron_nmm corpus"
CORPUS_VERSION = 1

Progress = Callable[[Path, int, int], None]
"""Told (input file, bytes of it read, samples written from it) now and then."""


def tokenise(inputs: Sequence[Path], output: Path, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Write or continue the corpus ``output`` and return the content of its corpus.json.

    Raises DataError when an input is missing, the output holds a corpus of another tokenizer, image rule or input, or
    the disk refuses, and FolderInUse when another process writes there; finished shards are intact in every case.
    """
    missing = [str(path) for path in inputs if not path.is_file()]
    if missing:
        raise DataError(f"input {', '.join(missing)} does not exist; give paths of JSONL files")
    try:
        with hold(output):
            return _write(inputs, output, settings, progress)
    except OSError as error:
        raise DataError(
            f"writing {output} failed: {error.strerror or error}; finished shards are kept: "
            "make room or fix the permissions, then run the same command again"
        ) from error


def _write(inputs: Sequence[Path], output: Path, settings: Settings, progress: Progress) -> dict[str, Any]:
    shards = output / "shards"
    shards.mkdir(exist_ok=True)
    finished = sorted(path for path in shards.iterdir() if path.is_dir() and path.suffix != ".partial")
    if len(finished) > len(inputs):
        raise DataError(
            f"{output} has {len(finished)} finished shards but {len(inputs)} inputs were given; "
            "give the earlier inputs too, or use a new --output"
        )
    # Every finished shard is checked before anything is written: a refusal leaves the folder as it was.
    manifests = [_check(folder, path, output, settings) for folder, path in zip(finished, inputs, strict=False)]
    for number, path in enumerate(inputs):
        if number >= len(manifests):
            tell = _progress_of(path, progress)
            manifests.append(write_shard(path, shards / f"{number:05d}", settings, tell))
    corpus = _corpus_json(manifests, settings)
    write_json(output / "corpus.json", corpus)
    return corpus


def _progress_of(path: Path, progress: Progress) -> Callable[[int, int], None]:
    return lambda done, samples: progress(path, done, samples)


def _check(folder: Path, path: Path, output: Path, settings: Settings) -> dict[str, Any]:
    """The manifest of a finished shard; raises DataError unless ``path`` and ``settings`` would give the same one."""
    manifest = read_json(folder / "shard.json", f"remove {folder} and run again")
    if manifest.get("version") != SHARD_VERSION:
        raise DataError(
            f"{folder} has format version {manifest.get('version')}, not {SHARD_VERSION}; use a new --output"
        )
    wanted = settings.identity()
    if manifest["tokenizer_sha256"] != wanted["tokenizer_sha256"]:
        raise DataError(
            f"{output} was tokenised with another tokenizer (sha256 {manifest['tokenizer_sha256'][:12]}, "
            f"{settings.tokenizer.path} has {settings.tokenizer.sha256[:12]}); use that one or a new --output"
        )
    if manifest["image_rule"] != wanted["image_rule"]:
        raise DataError(
            f"{output} was tokenised with image rule {manifest['image_rule']}, this run has {wanted['image_rule']}; "
            "use the same --image-size and --patch or a new --output"
        )
    if manifest["source"] != settings.source:
        raise DataError(
            f"{output} is a corpus of source {manifest['source']!r}, not {settings.source!r}; "
            f"use --source {manifest['source']} or a new --output"
        )
    identity = input_identity(path)
    if any(manifest["input"][key] != value for key, value in identity.items()):
        raise DataError(
            f"finished shard {folder} was made from {manifest['input']['name']} ({manifest['input']['bytes']} bytes), "
            f"which differs from {path} ({identity['bytes']} bytes); keep inputs unchanged and in order, "
            "append new ones at the end, or use a new --output"
        )
    return manifest


def _corpus_json(manifests: list[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """The content of corpus.json. ``fingerprint`` changes whenever a sample number could mean another sample."""
    counts: Counter[str] = Counter()
    for manifest in manifests:
        counts.update(manifest["counts"])
    shards = [
        {"folder": f"shards/{number:05d}", "input": m["input"], "counts": m["counts"], "files": m["files"]}
        for number, m in enumerate(manifests)
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
        "counts": dict(sorted(counts.items())),
        "shards": shards,
        "fingerprint": hashlib.sha256(content).hexdigest(),
    }
