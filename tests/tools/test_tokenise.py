"""tools/tokenise.py writes a corpus without torch, says what it holds and what it left out."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from megatron_nmm.data.corpus import Corpus
from tests.data.corpora import encode, mixed_records, record, tokenizer, write_images, write_jsonl
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
        "--workers",
        "1",
        "--output",
        str(folder / name),
    ]


def test_a_corpus_is_written_and_summarised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "out: 9 samples," in out and "5 images, 1 rejected" in out
    assert "rejected 1: a.jsonl:10 caption-9: image 'gone.png' cannot be read: No such file or directory" in out
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
        (
            ["--image-rule", "native", "--min-patches", "9", "--max-patches", "8"],
            "min_patches 9 and max_patches 8 leave",
        ),
        (["--schema", "text=words"], "the record has id, images, kind, text"),
        (["--schema", "text"], "schema 'text' is not role=field"),
        (["--input", "/nowhere/a.jsonl"], "input /nowhere/a.jsonl does not exist; give files, folders or URLs"),
    ],
)
def test_faults_are_one_clear_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    assert main([*_arguments(tmp_path), *change]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_rejections_are_summed_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(tmp_path)
    bad = [record(n, "caption", [f"gone-{n}.png"]) for n in range(7)]
    write_jsonl(tmp_path / "a.jsonl", [*bad, {"id": "x", "kind": "text", "text": ""}])
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert "  rejected 7: image … cannot be read: No such file or directory; first a.jsonl:1 caption-0: image" in out
    assert "  rejected 1: a.jsonl:8 x: the text is empty" in out
    assert "every one of them: " in out and "rejected.parquet" in out
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


def test_only_what_the_input_needs_is_imported(tmp_path: Path) -> None:
    arguments = _arguments(tmp_path)
    unneeded = {"pandas", "ray", "tokenizers", "rich", "fsspec", "torch"}
    script = (
        "import sys\n"
        "from tools import tokenise\n"
        f"assert tokenise.main({arguments!r}) == 0\n"
        f"print('UNNEEDED', sorted({unneeded!r} & set(sys.modules)))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert "UNNEEDED []" in done.stdout


MEASURED = """
import sys, threading, time
import psutil
from tools.tokenise import main
peak, own = 0, psutil.Process()
def watch():
    global peak
    while True:
        now = 0
        for process in [own, *own.children(recursive=True)]:
            try:
                now += process.memory_info().rss
            except psutil.NoSuchProcess:
                pass
        peak = max(peak, now)
        time.sleep(0.01)
if __name__ == "__main__":
    threading.Thread(target=watch, daemon=True).start()
    assert main(sys.argv[1:]) == 0
    print("PEAK", peak >> 20)
"""


def _peak_mib(folder: Path, name: str, source: Path, *more: str) -> int:
    """Largest sum of the resident memory of all processes of a run with two workers."""
    script = folder / "measured.py"
    script.write_text(MEASURED)
    command = [sys.executable, str(script), "--input", str(source), "--tokenizer", str(tokenizer(folder).path)]
    command += ["--output", str(folder / name), "--workers", "2", *more]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout.split("PEAK")[1])


def test_memory_of_all_processes_is_bounded_for_text(tmp_path: Path) -> None:
    peaks = []
    for count in (17_000, 34_000):
        source = write_jsonl(tmp_path / f"{count}.jsonl", [record(n, "text", words=9) for n in range(count)])
        peaks.append(_peak_mib(tmp_path, f"out-{count}", source, "--unit-bytes", str(source.stat().st_size // 2)))
    # Twice the records; each worker fills a row group of the sample table in the first already.
    assert max(peaks) < 400 and peaks[1] - peaks[0] < 16, peaks


def test_memory_of_all_processes_is_bounded_for_images(tmp_path: Path) -> None:
    # Stored uncompressed, so that the pictures are large and yet quick to make: 120 MB of them.
    encoded = [encode(Image.new("RGB", (1000, 1000), (n, n, n)), "BMP") for n in range(8)]
    source = tmp_path / "pictures.parquet"
    schema = pa.schema([("caption", pa.string()), ("image", pa.binary())])
    with pq.ParquetWriter(source, schema, compression="none") as writer:
        for _ in range(5):
            writer.write_table(pa.table([["a red thing."] * 8, encoded], schema=schema))
    peak = _peak_mib(tmp_path, "out", source, "--image-size", "8", "--patch", "4")
    stored = sum(path.stat().st_size for path in tmp_path.glob("out/shards/*/images.bin"))
    assert stored == 5 * 8 * len(encoded[0])
    assert peak < 400, peak
