"""kill -9 of one rank in the middle of a step: one message, a new start, the losses of a run undisturbed."""

from dataclasses import replace
from pathlib import Path

from megatron_nmm.config import ParallelConfig, RunConfig, SaveConfig
from megatron_nmm.train import metrics
from megatron_nmm.verify.workers import WorkerPool
from tests.chaos import launching
from tests.train.runs import tiny_run, train_job

STEPS, SAVED, DEADLY = 8, 4, 6
"""Steps of the run, the last one saved before the kill, the one in which it happens."""


def _run(folder: Path, parallel: ParallelConfig) -> RunConfig:
    run = tiny_run(folder, steps=STEPS, parallel=replace(parallel, time_limit_s=60.0), save=SaveConfig(every=SAVED))
    return replace(run, journal=replace(run.journal, every=1), threads=1)


def _results(folder: Path) -> list[tuple[object, ...]]:
    """What a run learnt: every loss and gradient norm, in full."""
    kept = ("event", "step", "loss", "grad_norm")
    records = metrics.read(folder / metrics.NAME)
    return [tuple(r.get(key) for key in kept) for r in records if r["event"] in ("step", "validation")]


def _require_equal(pool: WorkerPool, run: RunConfig, undisturbed: Path) -> None:
    pool.run(run.parallel.processes, train_job, replace(run, folder=str(undisturbed)))
    results = _results(undisturbed)
    assert [row[1] for row in results if row[0] == "step"] == list(range(1, STEPS + 1))
    assert _results(Path(run.folder)) == results


def _require_one_message(error: str, victim: int, size: int) -> None:
    messages = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, error
    assert f" of {size}, step {DEADLY}, forward and backward pass: " in messages[0]
    assert "lost a peer" in messages[0]
    assert f"  rank {victim}: process " in error and " is gone" in error
    assert 'recipe.py", line' not in error, "no traceback of ours"


def test_two_processes(pool: WorkerPool, tmp_path: Path) -> None:
    run = _run(tmp_path, ParallelConfig(tensor=2))
    arguments = launching.prepare(tmp_path, run)
    job = launching.start("torchrun.sh", arguments, NMM_PROCESSES="2", NMM_RESTARTS="1", VICTIM=f"1:{DEADLY}")
    (ended,) = launching.finish([job])
    assert ended.code == 0, ended.error
    _require_one_message(ended.error, victim=1, size=2)
    assert f"continuing after step {SAVED}" in ended.out
    _require_equal(pool, run, tmp_path / "undisturbed")


def test_four_processes_on_two_nodes(pool: WorkerPool, tmp_path: Path) -> None:
    """Two torchruns that meet over loopback; the rank that dies is on the second, and both start again."""
    run = _run(tmp_path, ParallelConfig(tensor=2, pipeline=2))
    arguments = launching.prepare(tmp_path, run)
    meet = f"127.0.0.1:{launching.free_port()}"
    nodes = [
        launching.start(
            "torchrun.sh",
            arguments,
            NMM_NODES="2",
            NMM_MEET=meet,
            NMM_PROCESSES="2",
            NMM_RESTARTS="2",
            VICTIM=f"3:{DEADLY}",
        )
        for _ in range(2)
    ]
    ended = launching.finish(nodes)
    error = "".join(node.error for node in ended)
    assert [node.code for node in ended] == [0, 0], error
    _require_one_message(error, victim=3, size=4)
    assert f"continuing after step {SAVED}" in "".join(node.out for node in ended)
    _require_equal(pool, run, tmp_path / "undisturbed")
