"""tools/train.py trains runs in turn: finished ones are passed over, the first that stops ends it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.config.io import load, save
from megatron_nmm.config.refusal import INTERRUPTED
from tools import train


def _run(folder: Path, name: str, *, finished: bool = False) -> str:
    run = RunConfig(name=name, folder=str(folder / name), steps=20)
    file = folder / name / "run.json"
    save(run, file)
    (folder / name / "checkpoints" / f"step-{20 if finished else 10:08d}").mkdir(parents=True)
    return str(file)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of runs that were trained; "stopped" is asked to stop half-way."""
    names: list[str] = []

    def stand_in(recipe: object, argv: Sequence[str]) -> None:
        run = load(argv[1])
        names.append(run.name)
        if run.name != "stopped":
            (Path(run.folder) / "checkpoints" / f"step-{run.steps:08d}").mkdir()

    monkeypatch.setattr(train, "train", stand_in)
    return names


def test_finished_runs_are_passed_over(tmp_path: Path, trained: list[str]) -> None:
    files = [_run(tmp_path, "done", finished=True), _run(tmp_path, "one"), _run(tmp_path, "two")]
    assert train.main(files) == 0
    assert trained == ["one", "two"]
    assert train.main(files) == 0
    assert trained == ["one", "two"]


def test_a_run_that_stops_ends_the_command(tmp_path: Path, trained: list[str]) -> None:
    assert train.main([_run(tmp_path, "stopped"), _run(tmp_path, "next")]) == INTERRUPTED
    assert trained == ["stopped"]


def test_a_file_that_is_no_run_is_refused(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([str(tmp_path / "absent.json")]) == 2
    assert "absent.json" in capsys.readouterr().err and trained == []
