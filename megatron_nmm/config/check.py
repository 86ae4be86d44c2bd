"""The one validation of a run: every fault at once, before any process group exists.

Three passes, each over a table: kinds of values (the annotations), ranges (bounds.py), relations (rules.py).
``check`` is pure; only ``check_files`` looks at the disk.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from megatron_nmm.config.bounds import LARGEST, out_of_range
from megatron_nmm.config.fault import Fault, config_error
from megatron_nmm.config.first_weights import first_weights_faults
from megatron_nmm.config.limits import limit_faults
from megatron_nmm.config.needs import package_faults
from megatron_nmm.config.rules import RULES, WORLD
from megatron_nmm.config.schema import RunConfig, SourceConfig
from megatron_nmm.config.values import accepts, describe, leaves

__all__ = ["Fault", "check", "check_files", "relations", "require"]


def check(run: RunConfig, world_size: int) -> tuple[Fault, ...]:
    """Every fault of ``run`` on ``world_size`` processes, in the order of the tables; empty when it may start."""
    faults = [*_wrong_kind(run)]
    faults += out_of_range(run, skip={fault.key for fault in faults})
    if not (accepts(int, world_size) and 1 <= world_size <= LARGEST):
        faults.append(Fault(WORLD, f"the world size {world_size!r} is out of range", "use a world size of at least 1"))
    bad = {fault.key for fault in faults}
    return (*faults, *relations(run, world_size, bad))


def relations(run: RunConfig, world_size: int, bad: Collection[str] = ()) -> tuple[Fault, ...]:
    """The last pass alone, without rules that read the keys in ``bad``: all that ``check`` has to say of a run whose
    other values are in order by themselves."""
    found: list[Fault] = []
    for rule in RULES:
        if not any(_touches(key, read) for key in bad for read in rule.reads):
            found += rule.judge(run, world_size)
    return tuple(found)


def require(run: RunConfig, world_size: int) -> None:
    """ConfigError that lists every fault of ``run``; nothing when there is none."""
    if faults := check(run, world_size):
        raise config_error("the run cannot start", faults)


def check_files(run: RunConfig) -> tuple[Fault, ...]:
    """Every file, folder or package the run needs and does not find, with its remedy, and every source read dry."""
    files = (*_tokenizer_faults(run), *_source_faults(run), *first_weights_faults(run), *limit_faults(run))
    return (*files, *package_faults(run))


def _wrong_kind(run: RunConfig) -> Iterator[Fault]:
    """A fault for every value its field's annotation does not accept, as a recipe in plain Python may set."""
    for key, annotation, value in leaves(RunConfig, run):
        if not accepts(annotation, value):
            yield Fault(key, f"{key} {value!r} is of the wrong kind", f"use {describe(annotation)}")


def _touches(bad: str, read: str) -> bool:
    """Whether the faulty key is the one read, a group around it (``model`` of ``model.width``), or one inside it."""
    return read == bad or read.startswith(f"{bad}.") or bad.startswith(f"{read}.")


def _tokenizer_faults(run: RunConfig) -> Iterator[Fault]:
    """The tokenizer's file, or the folder that holds it."""
    make = (
        "train one with tools/train_tokenizer.py, or set data.tokenizer to a SentencePiece model or a folder with a "
        "tokenizer.json"
    )
    if not run.data.tokenizer:
        yield Fault("data.tokenizer", "data.tokenizer is empty", make)
    elif not Path(run.data.tokenizer).exists():
        yield Fault("data.tokenizer", f"data.tokenizer {_place(run.data.tokenizer)} does not exist", make)


def _source_faults(run: RunConfig) -> Iterator[Fault]:
    """Corpora and pack plans of training and validation."""
    if not run.data.train:
        example = json.dumps([{"corpus": "data/corpus"}])
        yield Fault("data.train", "data.train is empty", f"name a corpus, e.g. --set 'data.train={example}'")
    for group, sources in (("data.train", run.data.train), ("evaluate.sources", run.evaluate.sources)):
        for index, source in enumerate(sources):
            yield from _one_source(f"{group}.{index}", source, run.data.sequence_length)


def _one_source(key: str, source: SourceConfig, sequence_length: int) -> Iterator[Fault]:
    """One corpus and its plan; a missing corpus hides its plan, for tokenising comes first."""
    make = f"write it with tools/tokenise.py, or set {key}.corpus to a folder that tool wrote"
    corpus = Path(source.corpus)
    if not source.corpus:
        yield Fault(f"{key}.corpus", f"{key}.corpus is empty", make)
    elif not corpus.is_dir():
        yield Fault(f"{key}.corpus", f"{key}.corpus {_place(source.corpus)} is not a folder", make)
    elif not (corpus / "corpus.json").is_file():
        fact = f"{key}.corpus {corpus} has no corpus.json: it is no corpus, or its tokenising has not ended"
        yield Fault(f"{key}.corpus", fact, make)
    else:
        plan = source.plan_path(sequence_length)
        if not Path(plan).exists():
            remedy = f"write it with tools/pack.py for data.sequence_length {sequence_length}, or set {key}.plan"
            yield Fault(f"{key}.plan", f"the pack plan {_place(plan)} does not exist", remedy)


def _place(path: str) -> str:
    """The path as given; a relative one with the folder it starts from, which may be the mistake."""
    return path if Path(path).is_absolute() else f"{path} (seen from {Path.cwd()})"
