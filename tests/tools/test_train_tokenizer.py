"""tools/train_tokenizer.py writes a usable model, or says what to change."""

import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.data.vocabulary import learn
from tests.data.corpora import WORDS, record, write_jsonl
from tests.data.raw.files import jsonl, pack, tar
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
    assert "does not exist; give files, folders or URLs of raw data" in " ".join(capsys.readouterr().err.split())


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


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz", "a.parquet", "a.tar", "folder", "url"])
def test_every_form_of_raw_data_teaches_the_same(tmp_path: Path, name: str) -> None:
    texts = [WORDS[number % 11] + " " + WORDS[number % 7] for number in range(300)]
    path = str(tmp_path / name)
    if name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    elif name == "a.tar":
        Path(path).write_bytes(tar((f"{number:04d}.txt", text.encode()) for number, text in enumerate(texts)))
    else:
        content = jsonl(*({"text": text} for text in texts))
        if name == "folder":
            Path(path).mkdir()
            (Path(path) / "a.jsonl").write_bytes(content)
        elif name == "url":
            path = "memory://train_tokenizer/a.jsonl"
            with fsspec.open(path, "wb") as file:
                file.write(content)
        else:
            Path(path).write_bytes(pack(content, name.rpartition(".")[2]))
    output = tmp_path / "m"
    assert main(["--input", path, "--output", str(output), "--vocabulary", "288", "--threads", "1"]) == 0
    assert output.read_bytes() == learn(texts, 288, "bpe", sample_limit=2_000_000, threads=1)


def test_a_schema_says_which_field_is_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(*({"body": record(number, "text", words=6)["text"]} for number in range(200))))
    command = ["--input", str(path), "--output", str(tmp_path / "m"), "--vocabulary", "288", "--threads", "1"]
    assert main(command) == 2
    assert "the record has body; name its fields with --schema" in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--schema", "text=title"]) == 2
    assert "field 'title' is missing; the record has body" in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--schema", "text=body"]) == 0


def test_a_sample_of_the_bytes_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [record(number, "text", words=6) for number in range(4000)])
    command = ["--input", str(path), "--output", str(tmp_path / "m"), "--vocabulary", "288", "--threads", "1"]
    assert main([*command, "--sample-bytes", "20000"]) == 0
    words = capsys.readouterr().err.split()
    assert 20_000 <= int(words[0].replace(",", "")) < 20_100 and words[1:4] == ["bytes", "of", "text"]


def test_torch_is_not_loaded() -> None:
    code = "import sys, tools.train_tokenizer; sys.exit('torch' in sys.modules or 'megatron' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
