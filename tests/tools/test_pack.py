"""tools/pack.py writes a plan and says how full its packs are and what does not fit."""

from pathlib import Path

import pytest

from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.plan import Plan
from tests.data.corpora import corpus, mixed_records, record
from tools.pack import main


def test_a_plan_is_written_and_summarised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = corpus(tmp_path, "c", [*mixed_records(30), record(99, "text", words=200)])
    assert main(["--corpus", str(folder), "--sequence-length", "48", "--vision-patches", "12"]) == 0
    out = capsys.readouterr().out
    plan = Plan(folder / "plan-48", Corpus(folder).fingerprint, 48)
    assert f"plan-48: 30 samples in {len(plan)} packs of 48 tokens, {plan.report['fill']:.1%} full" in out
    assert "1 rejected" in out
    assert "rejected text-99: " in out and "tokens do not fit a pack of 48; use --sequence-length " in out
    assert plan.report["vision_patches"] == 12


def test_several_lengths_stand_side_by_side(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", mixed_records(30))
    for length in ("40", "64"):
        assert main(["--corpus", str(folder), "--sequence-length", length]) == 0
    assert {path.name for path in folder.glob("plan-*")} == {"plan-32", "plan-40", "plan-64"}


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
