"""tools/blame.py tells what fed a step of a real run, resumed in between, and where a sample was read."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from megatron_nmm.config import RunConfig
from megatron_nmm.data.stream import Stream
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.train.runs import tiny_run, train_job
from tools.blame import main

Delivered = dict[int, list[str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool) -> tuple[RunConfig, Delivered]:
    """Four steps by one process, killed after step 4 with a checkpoint at 3, then five by two; what was delivered."""
    run = tiny_run(tmp_path_factory.mktemp("blame"), steps=5)
    (first,) = pool.run(1, _train, run, 4)
    parts = pool.run(2, _train, run, 99)
    second = {step: [sample for part in parts for sample in part[step]] for step in parts[0]}
    assert set(first) == {1, 2, 3, 4} and set(second) == {4, 5}
    return run, first | second


def _train(place: Place, run: RunConfig, last: int) -> Delivered:
    """Train, dying after step ``last``; the ids this rank was given, by step."""
    delivered: Delivered = {}
    real = Stream.next_step

    def noted(self: Stream) -> Any:
        step = self.consumed // run.data.global_batch + 1
        if step > last:
            raise KeyError("the power goes")
        batches = real(self)
        delivered[step] = [sample for batch in batches for row in batch.sample_ids for sample in row]
        return batches

    Stream.next_step = noted  # type: ignore[method-assign]
    try:
        train_job(place, run)
    except KeyError:
        pass
    finally:
        Stream.next_step = real  # type: ignore[method-assign]
    return delivered


def test_a_step_is_told_as_it_was_delivered(
    trained: tuple[RunConfig, Delivered], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, delivered = trained
    for step, ids in delivered.items():
        assert main(["--run", run.folder, "--step", str(step), "--output", str(tmp_path / "sheet.png")]) == 0
        lines = capsys.readouterr().out.splitlines()
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
        assert [row[3] for row in rows] == ids
        assert {row[1] for row in rows} <= {"web", "books"}
        assert f"{len(ids)} samples with" in lines[-2]
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert min(sheet.size) > 200


def test_the_steps_of_a_sample_are_listed(
    trained: tuple[RunConfig, Delivered], capsys: pytest.CaptureFixture[str]
) -> None:
    run, delivered = trained
    sample = delivered[2][0]
    assert main(["--run", run.folder, "--sample", sample]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [step for step, ids in sorted(delivered.items()) for one in ids if one == sample]
    assert [int(line.split(",")[0].removeprefix("step ")) for line in lines[:-1]] == expected
    assert lines[-1] == f"{sample} was read {len(expected)} times in the 5 steps of {run.folder}"


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (["--step", "9"], "does not hold step 9; it holds steps 1 to 5"),
        (["--sample", "nobody"], "packs a sample 'nobody'"),
        (["--step", "1", "--tokenizer", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_cannot_be_told_is_refused(
    trained: tuple[RunConfig, Delivered], capsys: pytest.CaptureFixture[str], question: list[str], message: str
) -> None:
    assert main(["--run", trained[0].folder, *question]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(tmp_path), "--step", "1"]) == 2
    assert "give the folder of a run that has taken a step" in " ".join(capsys.readouterr().err.split())
