"""A folder belongs to one run at a time, and to one configuration for good."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    RunConfig,
    SaveConfig,
    SourceConfig,
)
from megatron_nmm.config.io import load
from megatron_nmm.errors import ConfigError
from megatron_nmm.files.lock import hold
from megatron_nmm.train.run_folder import CONFIG, claim, require_same
from megatron_nmm.verify.workers import Place, WorkerPool

RUN = RunConfig(data=DataConfig(train=(SourceConfig("a"), SourceConfig("b"))))


@pytest.mark.parametrize(
    "continued",
    [
        RUN,
        replace(RUN, steps=RUN.steps * 2, name="again", folder="elsewhere", threads=3),
        replace(RUN, parallel=ParallelConfig(tensor=2, pipeline=2, sequence=True), save=SaveConfig(every=5)),
        replace(RUN, data=replace(RUN.data, microbatch=4, workers=2)),
        replace(RUN, data=replace(RUN.data, train=(SourceConfig("a", weight=3.0),), share_of="tokens", max_bad=5)),
    ],
)
def test_length_layout_and_mixture_may_change(continued: RunConfig) -> None:
    require_same(RUN, continued)


@pytest.mark.parametrize(
    ("other", "fact"),
    [
        (replace(RUN, seed=2), "seed was 1234, now 2"),
        (replace(RUN, model=ModelConfig(width=64)), "model.width was 800, now 64"),
        (replace(RUN, optim=OptimConfig(learning_rate=1.0)), "optim.learning_rate was 0.0015, now 1.0"),
        (replace(RUN, data=replace(RUN.data, sequence_length=8)), "data.sequence_length was 1024, now 8"),
        (replace(RUN, data=replace(RUN.data, global_batch=16)), "data.global_batch was 8, now 16"),
    ],
)
def test_what_is_learnt_may_not_change(other: RunConfig, fact: str) -> None:
    with pytest.raises(ConfigError) as raised:
        require_same(RUN, other)
    assert fact in str(raised.value)
    assert "--set folder=" in str(raised.value)


def test_a_free_folder_is_claimed_and_remembers_its_run(tmp_path: Path, pool: WorkerPool) -> None:
    run = replace(RUN, folder=str(tmp_path / "new" / "run"))
    assert pool.run(2, _claim, run) == [None, None]
    assert load(tmp_path / "new" / "run" / CONFIG) == run
    assert pool.run(2, _claim, replace(run, steps=2_000)) == [None, None]
    assert load(tmp_path / "new" / "run" / CONFIG).steps == 2_000


def test_two_runs_in_one_folder_are_refused_on_every_rank(tmp_path: Path, pool: WorkerPool) -> None:
    with hold(tmp_path):
        messages = pool.run(2, _claim, replace(RUN, folder=str(tmp_path)))
    assert messages[0] == messages[1]
    assert "is in use by process" in messages[0]
    assert "folder=" in messages[0]
    assert not (tmp_path / CONFIG).exists()


def test_another_runs_folder_is_refused_and_left_alone(tmp_path: Path, pool: WorkerPool) -> None:
    run = replace(RUN, folder=str(tmp_path))
    pool.run(1, _claim, run)
    (message,) = pool.run(1, _claim, replace(run, seed=7))
    assert "holds another run: seed was 1234, now 7" in message
    assert load(tmp_path / CONFIG) == run


def _claim(place: Place, run: RunConfig) -> str | None:
    """Claim the folder on every rank; the message when it is refused."""
    with place.world(ParallelConfig()) as world:
        try:
            with claim(run, world) as folder:
                assert folder == Path(run.folder)
        except ConfigError as error:
            return str(error)
    return None
