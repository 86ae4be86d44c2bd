"""Tiny real runs for the tests of training and generation: corpora on disk, a model of a few thousand weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_nmm.config import (
    EvaluateConfig,
    JournalConfig,
    OptimConfig,
    ParallelConfig,
    PrecisionConfig,
    RunConfig,
    SaveConfig,
    ScheduleConfig,
    SourceConfig,
)
from megatron_nmm.train.loop import train
from megatron_nmm.verify.workers import Place
from tests.data.corpora import corpus, mixed_records, run_config

LENGTH = 48


def tiny_run(folder: Path, **changes: Any) -> RunConfig:
    """A run over two corpora made in ``folder``, validated on one of them; ``changes`` are fields of RunConfig."""
    corpus(folder, "web", mixed_records(30), LENGTH)
    corpus(folder, "books", mixed_records(12)[::3], LENGTH)
    run = run_config(folder, [("web", 2.0), ("books", 1.0)], LENGTH, workers=1)
    values: Mapping[str, Any] = {
        "name": "tiny",
        "folder": str(folder / "run"),
        "steps": 6,
        "model": replace(run.model, layers=2, width=32, heads=4, ffn=48),
        "precision": PrecisionConfig("fp32"),
        "optim": OptimConfig(learning_rate=1e-2),
        "schedule": ScheduleConfig(kind="constant", warmup=2),
        "evaluate": EvaluateConfig(every=3, sources=(SourceConfig(str(folder / "web")),), packs=4),
        "journal": JournalConfig(tensorboard=False),
        "save": SaveConfig(every=3),
        "parallel": ParallelConfig(time_limit_s=60.0),
    }
    return replace(run, **{**values, **changes})


def train_job(place: Place, run: RunConfig) -> None:
    """Train ``run`` on every rank of a job."""
    with place.world(run.parallel, run.seed) as world:
        train(run, world)
