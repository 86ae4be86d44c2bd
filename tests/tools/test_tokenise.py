"""tools/tokenise.py writes a corpus without torch, says what it holds and what it left out."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_nmm.data.corpus import Corpus
from tests.data.corpora import mixed_records, record, tokenizer, write_images, write_jsonl
from tools.tokenise import main


def _arguments(folder: Path, name: str = "out") -> list[str]:
    write_images(folder)
    path = write_jsonl(folder / "a.jsonl", [*mixed_records(9), record(9, "caption", ["gone.png"])])
    model = str(tokenizer(folder).path)
    return [
        "--input",
        str(path),
        "--tokenizer",
        model,
        "--image-size",
        "8",
        "--patch",
        "4",
        "--output",
        str(folder / name),
    ]


def test_a_corpus_is_written_and_summarised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "out: 9 samples," in out and "5 images, 1 rejected" in out
    assert "rejected a.jsonl:10 caption-9: image 'gone.png' cannot be read: No such file or directory" in out
    corpus = Corpus(tmp_path / "out")
    assert len(corpus) == 9 and corpus.source == "out"


def test_a_second_run_finds_everything_done(tmp_path: Path) -> None:
    arguments = _arguments(tmp_path)
    assert main(arguments) == 0
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").rglob("*")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").rglob("*")} == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--tokenizer", "/nowhere/t.model"], "tokenizer /nowhere/t.model does not exist; train one with"),
        (["--image-size", "9"], "image size 9 is not a multiple of patch 4; use 8"),
        (["--input", "/nowhere/a.jsonl"], "input /nowhere/a.jsonl does not exist; give paths of JSONL files"),
    ],
)
def test_faults_are_one_clear_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    assert main([*_arguments(tmp_path), *change]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_corpus_without_a_sample_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", [record(n, "caption", ["gone.png"]) for n in range(7)])
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out.count("  rejected a.jsonl:") == 5 and "  ... and 2 more in" in out
    assert "out holds no sample; correct --images or the records, remove" in error


def test_an_output_of_another_tokenizer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(tmp_path)
    assert main(arguments) == 0
    assert main([*arguments, "--tokenizer", str(tokenizer(tmp_path, seed=1).path)]) == 2
    assert "was tokenised with another tokenizer" in " ".join(capsys.readouterr().err.split())
    assert len(Corpus(tmp_path / "out")) == 9


def test_neither_torch_nor_the_engine_is_imported(tmp_path: Path) -> None:
    arguments = _arguments(tmp_path)
    script = (
        "import sys\n"
        "from tools import pack, tokenise, train_tokenizer\n"
        f"assert tokenise.main({arguments!r}) == 0\n"
        f"assert pack.main(['--corpus', {arguments[-1]!r}, '--sequence-length', '32']) == 0\n"
        "print('HEAVY', sorted({'torch', 'megatron', 'transformers'} & set(sys.modules)))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    model = str(tokenizer(tmp_path).path)
    peaks = []
    for count in (3_000, 24_000):
        path = write_jsonl(tmp_path / f"{count}.jsonl", [record(n, "text", words=9) for n in range(count)])
        output = str(tmp_path / f"out-{count}")
        script = (
            "import resource\n"
            "from tools.tokenise import main\n"
            f"assert main(['--input', {str(path)!r}, '--tokenizer', {model!r}, '--output', {output!r}]) == 0\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    # Eight times the records: less than 25 MB more, most of which is one row group of the sample table.
    assert peaks[1] - peaks[0] < 25_000
