"""tools/pack.py writes a plan and says how full its packs are and what does not fit."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.plan import Plan
from tests.data.corpora import corpus, mixed_records, record
from tests.house.tree import ROOT
from tools.pack import main


def test_a_plan_is_written_and_summarised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = corpus(tmp_path, "c", [*mixed_records(30), record(99, "text", words=200)])
    assert main(["--corpus", str(folder), "--sequence-length", "48", "--vision-patches", "12"]) == 0
    out = capsys.readouterr().out
    plan = Plan(folder / "plan-48", Corpus(folder).fingerprint, 48)
    cells = [cell.strip() for cell in next(line for line in out.splitlines() if "│ 48" in line).split("│")]
    assert cells[1:6] == ["48", "12", "30", str(len(plan)), f"{plan.report['fill']:.2%}"]
    assert f"{folder / 'plan-48'}: 1 rejected, picture {folder / 'plan-48' / 'histogram.png'}" in out
    assert "rejected text-99: " in out and "tokens do not fit a pack of 48; use --sequence-length " in out
    assert plan.report["vision_patches"] == 12
    assert (folder / "plan-48" / "histogram.png").read_bytes().startswith(b"\x89PNG")


def test_several_lengths_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = corpus(tmp_path, "c", mixed_records(30))
    arguments = ["--corpus", str(folder), "--sequence-length", "40", "64", "--vision-patches", "8", "16"]
    assert main(arguments) == 0
    assert {path.name for path in folder.glob("plan-*")} == {"plan-32", "plan-40", "plan-64"}
    fingerprint = Corpus(folder).fingerprint
    assert [Plan(folder / f"plan-{n}", fingerprint, n).report["vision_patches"] for n in (40, 64)] == [8, 16]
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in lines if line.startswith("│")]
    assert rows == [["40", "8"], ["64", "16"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sequence-length", "40", "40"], "names a length twice"),
        (["--sequence-length", "40", "64", "--vision-patches", "1", "2", "3"], "has 3 numbers for 2 lengths"),
        (["--sequence-length", "40", "64", "--output", "p"], "--output is for one --sequence-length"),
    ],
)
def test_arguments_that_contradict(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--corpus", "c", *arguments])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_torch_is_not_loaded() -> None:
    code = "import sys, tools.pack; sys.exit(sorted({'torch', 'megatron', 'matplotlib'} & set(sys.modules)) != [])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_missing_corpus_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--corpus", str(tmp_path / "none"), "--sequence-length", "32"]) == 2
    assert "does not exist; make it with tools/tokenise.py" in " ".join(capsys.readouterr().err.split())


def test_an_output_that_is_no_plan_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = corpus(tmp_path, "c", mixed_records(9))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "notes"):
        assert main(["--corpus", str(folder), "--sequence-length", "48", "--output", str(taken)]) == 2
        assert f"error: {taken} exists and is no pack plan" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes").read_text() == "keep"


def test_a_length_that_holds_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = corpus(tmp_path, "c", mixed_records(9))
    assert main(["--corpus", str(folder), "--sequence-length", "2"]) == 2
    assert "do not fit a pack of 2; use --sequence-length" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["--corpus", str(folder), "--sequence-length", "0"])
