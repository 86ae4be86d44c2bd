"""The local runner: what is missing is trained, failed runs are named while others go on, disks are cleared."""

from pathlib import Path

import pytest

from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling import manifest
from megatron_nmm.scaling.sweep import local, work
from megatron_nmm.scaling.sweep.expand import Trunk, expand
from megatron_nmm.scaling.sweep.local import Failure, Settings, sweep
from tests.scaling.sweep.designs import design, saved

FAKE = Path(__file__).with_name("fake_train.py")
S, M = "early-s-60-0-40-s7", "early-m-60-0-40-s7"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOOK_S", 0.05)


@pytest.fixture
def trunks(tmp_path: Path) -> tuple[Trunk, ...]:
    """Two trunks of three branches, their files written."""
    found = expand(design(), tmp_path)
    for run in (run for trunk in found for run in (trunk.run, *(branch.run for branch in trunk.branches))):
        work.save(run, work.config_file(run))
    return found


def _sweep(trunks: tuple[Trunk, ...], output: Path, **settings: bool) -> list[Failure]:
    return sweep(work.jobs(trunks, output), Settings(output, FAKE, at_once=2, **settings), lambda state, points: None)


def _done(output: Path) -> set[str]:
    return {point.run for point in work.points(output)}


def test_every_branch_gets_a_point_and_checkpoints_go(trunks: tuple[Trunk, ...], tmp_path: Path) -> None:
    assert _sweep(trunks, tmp_path) == []
    assert _done(tmp_path) == {f"{model}-{length}" for model in (S, M) for length in ("100k", "200k", "400k")}
    assert manifest.read(tmp_path).faults == ()
    assert list(tmp_path.rglob("step-*")) == []
    assert work.jobs(trunks, tmp_path) == []


def test_models_are_kept_where_they_are_wanted(trunks: tuple[Trunk, ...], tmp_path: Path) -> None:
    _sweep(trunks, tmp_path, keep_models=True)
    assert len(list(tmp_path.rglob("step-*"))) == 6
    assert not any("trunk" in str(path) for path in tmp_path.rglob("step-*"))


@pytest.mark.parametrize("cause", ["FAIL", "DIVERGE"])
def test_a_failed_branch_is_named_and_the_others_go_on(
    cause: str, trunks: tuple[Trunk, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cause, f"{S}-200k")
    (failure,) = _sweep(trunks, tmp_path)
    assert failure.run == f"{S}-200k"
    assert failure.log.is_file()
    told = f"exit code 2: {S}-200k is out of luck" if cause == "FAIL" else "the run diverged; use a lower learning rate"
    assert told in failure.why
    assert len(_done(tmp_path)) == 5
    (left,) = work.jobs(trunks, tmp_path)
    assert [branch.run.name for branch in left.branches] == [f"{S}-200k"] and not left.needs_trunk, "it can go on"
    monkeypatch.delenv(cause)
    if cause == "FAIL":
        assert _sweep(trunks, tmp_path) == []
        assert len(_done(tmp_path)) == 6


def test_a_failed_trunk_takes_its_later_branches_with_it(
    trunks: tuple[Trunk, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails before its last checkpoint, of step 320, which the longest branch needs; the first two stand."""
    trunk = f"{M}-trunk-w10"
    trunks_at = tuple(t for t in trunks if t.run.name == trunk)
    monkeypatch.setenv("FAIL", trunk)
    failures = _sweep(trunks, tmp_path)
    assert {failure.run for failure in failures} == {trunk, f"{M}-400k"}
    assert next(f.why for f in failures if f.run == f"{M}-400k") == f"not run: its trunk {trunk} failed"
    assert len(_done(tmp_path)) == 5
    assert list(trunks_at[0].checkpoint(trunks_at[0].branches[1]).parent.iterdir()), "the trunk goes on from there"


def test_a_trunk_past_a_checkpoint_that_is_gone_begins_anew(trunks: tuple[Trunk, ...], tmp_path: Path) -> None:
    trunk = trunks[0]
    saved(trunk.run.folder, 320)
    job = work.job(trunk, trunk.branches)
    assert job.needs_trunk and job.anew
    assert trunk.checkpoint(trunk.branches[-1]).exists(), "looking changes nothing"
    work.make_ready(job)
    assert not trunk.checkpoint(trunk.branches[-1]).exists()
    saved(trunk.run.folder, 80)
    assert work.job(trunk, trunk.branches) == work.Job(trunk, trunk.branches, needs_trunk=True), "it goes on"


def test_a_branch_with_a_checkpoint_of_its_own_needs_no_trunk(trunks: tuple[Trunk, ...]) -> None:
    trunk = trunks[0]
    saved(trunk.branches[1].run.folder, 190)
    assert not work.job(trunk, trunk.branches[1:2]).needs_trunk
    assert work.job(trunk, trunk.branches[1:]).needs_trunk


def _claim(output: Path, *changes: str) -> None:
    with work.claim(expand(design(), output, changes), output):
        pass


def test_the_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    _claim(tmp_path)
    _claim(tmp_path, "threads=3")
    with pytest.raises(ConfigError, match="holds another study: early-s-60-0-40-s7-100k had another optim; name a"):
        _claim(tmp_path, "optim.clip=0")


def test_faults_of_runs_are_told_before_any_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        work.check_all(expand(design(), tmp_path, ["model.heads=5"]), 1)
    told = str(raised.value)
    assert "early-s-60-0-40-s7-trunk-w10: " in told and "model.width 32" in told and "more of the kind" in told
