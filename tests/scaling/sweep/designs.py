"""Small designs for the tests of the sweep, and what a run of one leaves behind without training anything."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_nmm.config import DataConfig, ModelConfig, RunConfig, SourceConfig, VisionConfig
from megatron_nmm.scaling.sweep.design import Candidate, Design, Grid, Mixture
from megatron_nmm.scaling.sweep.expand import Branch

RUN = RunConfig(
    model=ModelConfig(layers=2, width=32, heads=2, vocabulary=64),
    data=DataConfig(
        train=(SourceConfig("data/photos", weight=3.0), SourceConfig("data/scans"), SourceConfig("data/web")),
        sequence_length=100,
        global_batch=10,
        image_size=56,
    ),
)
"""1,000 tokens a step."""
WIDE = replace(RUN, model=replace(RUN.model, width=64))
LATE = replace(RUN, model=replace(RUN.model, vision=VisionConfig(depth=2, width=16, heads=2)))
MIXTURE = Mixture("60-0-40", {"caption": 60.0, "text": 40.0}, 0.5)
KINDS = {"photos": "caption", "scans": "caption", "web": "text"}


def design(**changes: Any) -> Design:
    """Two sizes at 100, 200 and 400 steps, 10 of them to warm up."""
    models = (Candidate("early", "s", RUN), Candidate("early", "m", WIDE))
    values: Mapping[str, Any] = {
        "name": "toy",
        "grids": (Grid(models, (100e3, 200e3, 400e3), (MIXTURE,), (7,)),),
        "kinds": KINDS,
        "warmup": 10,
    }
    return Design(**{**values, **changes})


def ended(branch: Branch, losses: Mapping[str, float | None], **changes: Any) -> None:
    """Write what a finished run of ``branch`` has in metrics.jsonl: two lines of steps and a validation."""
    folder = Path(branch.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"read_tokens": 900, "read_image_tokens": 500, "flops": 10**6, "seconds": 1.5, **changes}
    steps = [{"event": "step", "step": step, **counts} for step in (branch.start, branch.run.steps)]
    kinds = {kind: {"loss": loss, "tokens": 10} for kind, loss in losses.items()}
    kinds["unseen"] = {"loss": None, "tokens": 0}
    last = {"event": "validation", "step": branch.run.steps, "kinds": kinds}
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in (*steps, last)))


def saved(folder: str | Path, step: int) -> Path:
    """The folder of a checkpoint, which stands."""
    checkpoint = Path(folder) / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "manifest.json").write_text("{}")
    return checkpoint
