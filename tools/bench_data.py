"""Speed of the data tools beside their peers, in the same run on the same machine.

    python tools/bench_data.py                                  # every table
    python tools/bench_data.py --only tokenise --megabytes 12 --rounds 1

tokenise: JSONL of text documents of at most 4 kB (source code and documentation of the installed Python packages) and a
SentencePiece BPE model of 16,000 pieces, both made once and kept in --cache. Every contender is a process of its own,
they take turns, medians are printed; memory is the largest sum over all processes of a contender.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.errors import DataError, NMMError
from megatron_nmm.files import durable

DOCUMENT_BYTES = 4000
ENDINGS = (".py", ".pyi", ".md", ".rst", ".txt")
PIECES = 16_000
TRAINED_ON = 8
"""Every so many documents train the tokenizer."""
POLL_S = 0.02
PEER_CHUNK = 32
"""Lines handed to a process of the pool at a time, as in Megatron-LM's tools/preprocess_data.py."""


@dataclass(frozen=True)
class Measured:
    """What one run of a process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    """Largest resident memory of the process and its children together; what they share counts in each."""
    said: str


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the chosen tables."""
    arguments = _arguments(argv)
    if arguments.contender:
        CONTENDERS[arguments.contender](*arguments.paths)
        return 0
    try:
        for name in arguments.only or TABLES:
            TABLES[name](arguments, Console())
    except NMMError as error:
        return refuse(error)
    return 0


def measure(command: Sequence[str]) -> Measured:
    """Run ``command`` and watch it; raises DataError when it fails."""
    began, before, peak = time.perf_counter(), os.times(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(process.stdout.read() if process.stdout else ""))
        reader.start()
        while True:
            peak = max(peak, _resident(process.pid))
            try:
                process.wait(POLL_S)
                break
            except subprocess.TimeoutExpired:
                continue
        wall = time.perf_counter() - began
        reader.join()
    if process.returncode:
        raise DataError(f"{' '.join(command)} ended with code {process.returncode}; run it alone to see why")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(wall, cpu, peak / 1e6, said[0])


def _resident(process: int) -> int:
    """Bytes of resident memory of a process and its descendants."""
    total = 0
    try:
        parent = psutil.Process(process)
        for one in (parent, *parent.children(recursive=True)):
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def tokenise_table(arguments: argparse.Namespace, console: Console) -> None:
    """tools/tokenise.py beside SentencePiece alone and Megatron-LM's pipeline."""
    corpus, model = _corpus(arguments.cache, arguments.megabytes), arguments.cache / "tokenizer.model"
    if not model.is_file():
        _train(corpus, model)
    output = arguments.cache / "output"
    itself = [sys.executable, __file__, "--contender"]
    tool = [sys.executable, str(Path(__file__).with_name("tokenise.py")), "--workers", "2", "--source", "bench"]
    commands = {
        "ours": [*tool, "--input", str(corpus), "--tokenizer", str(model), "--output", str(output)],
        "sentencepiece": [*itself, "sentencepiece", str(corpus), str(model)],
        "megatron": [*itself, "megatron", str(corpus), str(model), str(output)],
    }
    if find_spec("megatron.core") is None:
        del commands["megatron"]
    runs: dict[str, list[Measured]] = {name: [] for name in commands}
    for _ in track(range(arguments.rounds), "tokenise", console=console, transient=True):
        for name, command in commands.items():
            shutil.rmtree(output, ignore_errors=True)
            runs[name].append(measure(command))
    shutil.rmtree(output, ignore_errors=True)
    console.print(_tokenise_rows(runs, corpus.stat().st_size / 1e6))


def _tokenise_rows(runs: dict[str, list[Measured]], megabytes: float) -> Table:
    """One row per contender, with what ours is against it."""
    table = Table(
        title=f"Tokenise {megabytes:.0f} MB of JSONL, SentencePiece BPE {PIECES:,}, 2 workers",
        caption="ours, Megatron-LM's pipeline (pool of 2, IndexedDatasetBuilder): whole process; "
        "SentencePiece: 2 threads, encoding alone; ours to it: ratio of speeds",
    )
    for heading in ("contender", "wall s", "range", "MB/s", "CPU s", "RSS MB", "ours to it"):
        table.add_column(heading, justify="left" if heading == "contender" else "right", no_wrap=True)
    ours = statistics.median(run.wall_s for run in runs["ours"])
    for name, measured in runs.items():
        # Of SentencePiece only the encoding counts: reading and parsing are not its own.
        walls = [float(run.said) if name == "sentencepiece" else run.wall_s for run in measured]
        wall = statistics.median(walls)
        table.add_row(
            name,
            f"{wall:.2f}",
            f"{min(walls):.2f}-{max(walls):.2f}",
            f"{megabytes / wall:.1f}",
            f"{statistics.median(run.cpu_s for run in measured):.1f}",
            f"{max(run.peak_mb for run in measured):.0f}",
            "" if name == "ours" else f"{wall / ours:.2f} x",
        )
    return table


def _corpus(cache: Path, megabytes: int) -> Path:
    """JSONL of documents out of the installed Python packages, written once; raises DataError if they are too few."""
    path = cache / f"corpus-{megabytes}.jsonl"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        lines, size = [], 0
        for document in _documents():
            lines.append((json.dumps({"text": document}, ensure_ascii=False) + "\n").encode())
            size += len(lines[-1])
            if size >= megabytes * 1_000_000:
                break
        else:
            raise DataError(
                f"the installed Python has {size / 1e6:.0f} MB of text; use --megabytes {size // 1_000_000}"
            )
        durable.replace(path, b"".join(lines))
    return path


def _documents() -> Iterator[str]:
    """Texts of at most :data:`DOCUMENT_BYTES`, none twice."""
    seen = set()
    for root in (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")):
        for path in sorted(path for path in root.rglob("*") if path.suffix in ENDINGS and path.is_file()):
            content = path.read_bytes()
            for start in range(0, len(content), DOCUMENT_BYTES):
                # A cut in the middle of a character leaves it out.
                document = content[start : start + DOCUMENT_BYTES].decode("utf-8", "ignore")
                if len(document) > DOCUMENT_BYTES // 20 and document not in seen:
                    seen.add(document)
                    yield document


def _train(corpus: Path, model: Path) -> None:
    """Write the SentencePiece model of the comparison."""
    from megatron_nmm.data.vocabulary import learn

    with corpus.open(encoding="utf-8") as file:
        texts = (json.loads(line)["text"] for line in islice(file, 0, None, TRAINED_ON))
        durable.replace(model, learn(texts, PIECES, "bpe", sample_limit=2_000_000, threads=2))


def _sentencepiece(corpus: str, model: str) -> None:
    """Print the seconds SentencePiece takes to encode the texts, from memory and by the way it is fastest."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    with open(corpus, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    began = time.perf_counter()
    for start in range(0, len(texts), 512):
        processor.Encode(texts[start : start + 512], return_type="numpy", num_threads=2)
    print(time.perf_counter() - began)


def _megatron(corpus: str, model: str, output: str) -> None:
    """What Megatron-LM's tools/preprocess_data.py does with --workers 2 --append-eod."""
    import numpy as np
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    Path(output).mkdir()
    dtype = DType.optimal_dtype(PIECES) if hasattr(DType, "optimal_dtype") else np.int32
    builder = IndexedDatasetBuilder(f"{output}/text_document.bin", dtype=dtype)
    with (
        open(corpus, encoding="utf-8") as lines,
        multiprocessing.get_context("fork").Pool(2, _open_model, (model,)) as pool,
    ):
        for ids in pool.imap(_encode_line, lines, PEER_CHUNK):
            builder.add_document(ids, [len(ids)])
    builder.finalize(f"{output}/text_document.idx")


PROCESSOR: list[Any] = []
"""The tokenizer of a process of the peer's pool."""


def _open_model(model: str) -> None:
    import sentencepiece

    PROCESSOR.append(sentencepiece.SentencePieceProcessor(model_file=model))


def _encode_line(line: str) -> list[int]:
    (processor,) = PROCESSOR
    ids: list[int] = processor.EncodeAsIds(json.loads(line)["text"])
    return [*ids, processor.eos_id()]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(TABLES), help="tables to measure (default: all)")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="turns of every contender (default 3)")
    parser.add_argument("--megabytes", type=positive, default=60, metavar="N", help="size of the corpus (default 60)")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench_data"), metavar="FOLDER", help="what is kept")
    parser.add_argument("--contender", choices=tuple(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


TABLES: dict[str, Callable[[argparse.Namespace, Console], None]] = {"tokenise": tokenise_table}
"""Name -> what measures and prints it."""
CONTENDERS: dict[str, Callable[..., None]] = {"sentencepiece": _sentencepiece, "megatron": _megatron}
"""What this file runs in a process of its own."""

if __name__ == "__main__":
    sys.exit(main())
