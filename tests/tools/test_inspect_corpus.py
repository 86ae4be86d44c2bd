"""tools/inspect_corpus.py prints what a corpus holds, draws it, and decodes samples back to text."""

from pathlib import Path

import pytest
from PIL import Image

from tests.data.corpora import corpus, mixed_records, record, tokenizer
from tools.inspect_corpus import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 30 samples beside its tokenizer, one record rejected."""
    path = tmp_path_factory.mktemp("inspect")
    return corpus(path, "mixed", [*mixed_records(30), record(100, "caption", ["missing.png"])])


def test_the_overview_counts_draws_and_names_reasons(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "pictures"
    assert main([str(folder), "--output", str(out), "--images", "7"]) == 0
    shown = capsys.readouterr().out
    assert "interleaved │      10 │" in shown
    assert "1 records rejected" in shown and "1 x image … cannot be read" in shown
    assert "caption-100 (mixed.jsonl:31): image 'missing.png' cannot be read" in shown
    assert f"histograms in {out / 'overview.png'}" in shown and f"7 images in {out / 'images.png'}" in shown
    for name in ("overview.png", "images.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 400


def test_samples_are_decoded_back_to_text(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = mixed_records(30)[5]
    assert main([str(folder), "--sample", wanted["id"], "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"{wanted['id']}: interleaved, sample 5, " in shown
    assert wanted["text"].replace("<image>", "<image 2x2>") in shown
    assert (tmp_path / "samples.png").is_file()
    assert main([str(folder), "--random", "4", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(" tokens, ") == 4


def test_a_text_corpus_needs_no_tokenizer_and_makes_no_sheet(tmp_path: Path) -> None:
    text = corpus(tmp_path, "text", [record(n, "text") for n in range(6)])
    (tmp_path / "tokenizer-0.model").unlink()
    assert main([str(text), "--output", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["overview.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sample", "nobody"], "has no sample 'nobody'"),
        (["--random", "1", "--tokenizer", "{other}"], "set data.tokenizer to that file"),
        (["--output", "{file}"], "cannot be made: File exists"),
    ],
)
def test_what_cannot_be_done_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    places = {"other": str(tokenizer(tmp_path, seed=1).path), "file": str(folder / "corpus.json")}
    assert main([str(folder), *(argument.format(**places) for argument in arguments)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_missing_corpus_or_tokenizer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    mixed = corpus(tmp_path, "mixed", mixed_records(6))
    (tmp_path / "tokenizer-0.model").unlink()
    assert main([str(mixed), "--random", "1"]) == 2
    errors = " ".join(capsys.readouterr().err.split())
    assert "does not exist; make it with tools/tokenise.py" in errors
    assert "needs its tokenizer tokenizer-0.model; give --tokenizer with its path" in errors
