"""A machine without a compiler trains: no step of ours builds anything at run time."""

import os
import subprocess
import sys
from pathlib import Path

from tests.house.tree import ROOT

STEP = """
import shutil

assert not any(shutil.which(name) for name in ("cc", "gcc", "c++", "g++", "clang", "clang++", "nvcc", "ninja"))

from dataclasses import replace

from megatron_nmm.config import RunConfig
from megatron_nmm.device.select import select
from megatron_nmm.parallel.world import World
from megatron_nmm.verify import layouts, synthetic

run = layouts.toy(RunConfig(device="cpu", threads=1))
run = replace(run, precision=replace(run.precision, dtype="bf16"))
world = World.start(run.parallel, select(run.device), run.seed, run.threads)

from megatron_nmm.models.build import build
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.train.optim import Optimizer

model = build(run, world)
optimizer = Optimizer(run, model, world)
batches = synthetic.batches(run, 1, seed=1)
losses = []
for step in (1, 2, 3):
    losses.append(forward_backward(model, batches, world).mean)
    assert optimizer.step(step).finite
world.close()
print("learnt", losses[-1] < losses[0])
"""


def test_a_training_step_needs_no_compiler(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "LC_ALL", "VIRTUAL_ENV")}
    # Fresh caches: nothing built earlier, by whatever had a compiler, may help.
    caches = {k: str(tmp_path / k) for k in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR")}
    environment = kept | caches | {"PATH": str(tmp_path / "empty"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STEP],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "learnt True"
