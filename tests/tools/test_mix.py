"""tools/mix.py tells what a mixture will read, and its lines make a run that reads just that."""

import shlex
from pathlib import Path

import pytest
from PIL import Image

from megatron_nmm.config.overrides import apply
from megatron_nmm.config.schema import SourceConfig
from megatron_nmm.data.stream import stream
from megatron_nmm.data.tables import read_table
from tests.data.corpora import mixed_and_text, mixed_records, run_config
from tools.mix import main

LENGTH = "32"
P1 = ["--preset", "p1", "--corpus", "caption=mixed", "--corpus", "interleaved=mixed", "--corpus", "text=text"]
OWN = ["--corpus", "a=mixed", "--corpus", "b=text", "--weight", "a=3", "--weight", "b=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packed corpora."""
    return mixed_and_text(tmp_path_factory.mktemp("mix"), mixed_records(60))


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def _mix(*arguments: str, packs: str = "400") -> int:
    return main([*arguments, "--sequence-length", LENGTH, "--packs", packs])


def _row(out: str, name: str) -> list[str]:
    (line,) = (line for line in out.splitlines() if line.split()[:1] == [name] and line.count("%") == 3)
    return line.replace(" %", "%").split()


def test_a_preset_is_told_and_drawn(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _mix(*P1, "--max-epochs", "text=0.5", "--verify", "300", "--output", str(tmp_path / "p" / "m.png")) == 0
    out = capsys.readouterr().out
    plan = read_table(folder / "mixed" / "plan-32" / "plan.parquet")
    tokens, samples = sum(plan.column("tokens").to_pylist()), sum(map(len, plan.column("samples").to_pylist()))
    assert _row(out, "caption")[:5] == ["caption", f"{len(plan)}", f"{tokens:,}", f"{samples}", "45.00%"]
    assert _row(out, "interleaved")[4] == "45.00%" and _row(out, "text")[4] == "10.00%"
    half = len(read_table(folder / "text" / "plan-32" / "plan.parquet")) // 2
    end = _row(out, "text")
    assert end[7] == str(half) and end[-1] == "packs" and 0 < int(end[-2]) < 400
    assert f"drew the first {end[-2]} packs; their shares of tokens, and the worst of any {end[-2]} in line:" in out
    assert "  caption 4" in out and 'SourceConfig("text", weight=10.0, max_epochs=0.5),' in out
    with Image.open(tmp_path / "p" / "m.png") as picture:
        assert picture.size[0] > 800


def test_the_lines_make_the_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--share-of", "samples", "--temperature", "2", "--max-epochs", "b=2"]
    assert _mix(*OWN, *chosen, "--output", str(tmp_path / "m.png")) == 0
    out = capsys.readouterr().out
    options = shlex.split(out.split("or on its command line:")[1].replace("\\\n", " "))
    run = run_config(folder, [("text", 1.0)])
    run = apply(run, [value for option, value in zip(options[::2], options[1::2], strict=True) if option == "--set"])
    assert run.data.train == (SourceConfig("mixed", weight=3.0), SourceConfig("text", weight=1.0, max_epochs=2.0))
    assert (run.data.share_of, run.data.temperature, run.data.sequence_length) == ("samples", 2.0, 32)
    with stream(run, 0, 1) as reading:
        assert [str(count) for count in reading.mixture.drawn(400)] == [_row(out, name)[7] for name in ("a", "b")]


def test_steps_are_counted_in_global_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["--steps", "50", "--global-batch", "16", "--max-epochs", "b=1"]
    assert main([*OWN, *steps, "--sequence-length", LENGTH, "--output", str(tmp_path / "m.png")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("800 packs of 32 tokens")
    row = _row(out, "b")
    assert row[-2] == "step" and int(row[-1]) == -(-int(row[-4]) // 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "p9", *P1[2:]], "no mixture is called p9; the nearest is p1"),
        (P1[:6], "preset p1 asks for more than the corpora given: text data for 10 % (--corpus text=FOLDER or dclm="),
        ([*P1, "--weight", "text=1"], "--preset and --weight both give weights; leave one of them out"),
        (OWN[:6], "corpus b has no weight; add --weight b=NUMBER, or give a --preset"),
        ([*OWN, "--weight", "c=1"], "--weight c names no corpus; the corpora are a, b"),
        ([*OWN, "--max-epochs", "c=1"], "--max-epochs c names no corpus; the corpora are a, b"),
        ([*OWN, "--weight", "a=1"], "--weight a is given twice; keep one"),
        ([*OWN, "--corpus", "mixed"], "--corpus mixed is not of the form NAME=VALUE"),
        ([*OWN, "--max-epochs", "a=often"], "--max-epochs a=often is not a number"),
        ([*OWN[:6], "--weight", "b=0"], "source 1 of the mixture has weight 0.0"),
        ([*OWN[:6], "--weight", "b=-1"], "source 1 of the mixture has weight -1.0"),
        ([*OWN[:6], "--weight", "b=nan"], "source 1 of the mixture has weight nan"),
        ([*OWN, "--temperature", "0"], "data.temperature 0.0 must be a number above 0"),
        ([*OWN, "--max-epochs", "b=0.01"], "data.train.1.max_epochs 0.01 of b is less than one of its"),
        ([*OWN, "--max-epochs", "a=1", "--max-epochs", "b=1"], "the run reads 400 packs (steps x data.global_batch)"),
        (["--corpus", "a=gone", "--weight", "a=1"], "corpus gone does not exist; make it with tools/tokenise.py"),
    ],
)
def test_what_makes_no_mixture_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _mix(*arguments, "--output", str(tmp_path / "m.png")) == 2
    assert f"error: {message}" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "m.png").exists()


def test_corpora_of_two_tokenizers_do_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = (Path("text") / "corpus.json").read_text()
    other = tmp_path / "other"
    other.mkdir()
    digest = info.split('"sha256": "')[1].split('"')[0]
    (other / "corpus.json").write_text(info.replace(digest, digest[::-1]))
    (other / "plan-32").symlink_to(Path("text").absolute() / "plan-32")
    assert _mix("--corpus", "a=mixed", "--corpus", f"b={other}", "--weight", "a=1", "--weight", "b=1") == 2
    assert "were tokenised with different tokenizers, and a run has one" in " ".join(capsys.readouterr().err.split())


def test_a_missing_plan_and_a_picture_that_cannot_be_written_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*OWN, "--sequence-length", "48", "--packs", "10"]) == 2
    assert "make it with tools/pack.py --sequence-length 48" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "file").write_text("")
    assert _mix(*OWN, "--output", str(tmp_path / "file" / "m.png")) == 2
    assert "give --output the path of a file that you may write" in " ".join(capsys.readouterr().err.split())
