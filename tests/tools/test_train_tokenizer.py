"""tools/train_tokenizer.py writes a usable model, or says what to change."""

from pathlib import Path

import pytest

from megatron_nmm.data.tokens import Tokenizer
from tests.data.corpora import record, write_jsonl
from tools.train_tokenizer import main


def _train(folder: Path, vocabulary: int, *more: str) -> int:
    path = write_jsonl(folder / "a.jsonl", [record(n, "caption", ["x.png"], words=6) for n in range(200)])
    output = str(folder / "new" / "t.model")
    return main(["--input", str(path), "--output", output, "--vocabulary", str(vocabulary), "--threads", "1", *more])


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_model_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert _train(tmp_path, 288, "--type", kind) == 0
    tokenizer = Tokenizer(tmp_path / "new" / "t.model")
    assert tokenizer.size == 288
    assert f"{kind}, 288 pieces, sha256 {tokenizer.sha256[:12]}" in capsys.readouterr().out
    assert tokenizer.decode(tokenizer.encode("a red thing.")) == "a red thing."
    # No file is read for its markers: the placeholder is no text.
    assert tokenizer.image not in tokenizer.encode("<image>")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.model"]


def test_too_large_a_vocabulary_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(tmp_path, 9000) == 2
    assert "vocabulary 9000 is too large for these texts; the largest possible is" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "new").exists()


def test_a_missing_input_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--input", str(tmp_path / "no"), "--output", str(tmp_path / "m"), "--vocabulary", "300"]) == 2
    assert "does not exist; give paths of JSONL files" in " ".join(capsys.readouterr().err.split())


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new").write_text("a file where a folder should be")
    assert _train(tmp_path, 288) == 2
    assert "t.model failed: File exists; make room, or give --output the path" in capsys.readouterr().err
    (tmp_path / "new").unlink()
    (tmp_path / "new" / "t.model").mkdir(parents=True)
    assert _train(tmp_path, 288) == 2
    assert "t.model failed: Is a directory" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.model"]


def test_unusable_records_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [record(n, "text", words=6) for n in range(200)])
    path.write_text(path.read_text() + '{"id": "half')
    assert main(["--input", str(path), "--output", str(tmp_path / "m"), "--vocabulary", "288", "--threads", "1"]) == 0
    assert "1 of 201 records cannot be used and were left out" in " ".join(capsys.readouterr().err.split())
