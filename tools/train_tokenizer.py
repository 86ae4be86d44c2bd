"""Trains a SentencePiece tokenizer on the text of JSONL records.

Run: python tools/train_tokenizer.py --input a.jsonl b.jsonl --vocabulary 32000 --output tokenizer.model
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.data.compose import segments
from megatron_nmm.data.records import Record, read_jsonl
from megatron_nmm.data.show import reading
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.data.vocabulary import learn
from megatron_nmm.errors import DataError, NMMError
from megatron_nmm.files import durable


def main(argv: Sequence[str] | None = None) -> int:
    """Train, write the model file and say what it is."""
    arguments = _arguments(argv)
    try:
        _train(arguments, Console(stderr=True))
    except NMMError as error:
        return refuse(error)
    tokenizer = Tokenizer(arguments.output)
    print(f"{arguments.output}: {arguments.type}, {tokenizer.size:,} pieces, sha256 {tokenizer.sha256[:12]}")
    return 0


def _train(arguments: argparse.Namespace, console: Console) -> None:
    """Learn from the inputs and write the model; DataError when either is impossible."""
    missing = [str(path) for path in arguments.input if not path.is_file()]
    if missing:
        raise DataError(f"input {', '.join(missing)} does not exist; give paths of JSONL files")
    model = learn(
        _texts(arguments.input, console),
        vocabulary=arguments.vocabulary,
        model_type=arguments.type,
        sample_limit=arguments.sample_limit,
        threads=arguments.threads,
    )
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(arguments.output, model)
    except OSError as error:
        raise DataError(
            f"writing {arguments.output} failed: {error.strerror}; make room, or give --output the path of a file that "
            "you may write"
        ) from error


def _texts(inputs: list[Path], console: Console) -> Iterator[str]:
    """The text of every usable record, without its image markers."""
    for path in inputs:
        with reading(path, console) as tell:
            records = texts = 0
            for done, record in read_jsonl(path):
                records += 1
                if isinstance(record, Record):
                    texts += 1
                    yield from filter(None, segments(record.text))
                if records % 1000 == 0:
                    tell(done, texts)
        if texts < records:
            console.print(
                f"{path}: {records - texts:,} of {records:,} records cannot be used and were left out", soft_wrap=True
            )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="JSONL", help="record files")
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL", help="model file to write")
    parser.add_argument(
        "--vocabulary", type=positive, required=True, metavar="PIECES", help="pieces, special and byte tokens included"
    )
    parser.add_argument("--type", choices=("bpe", "unigram"), default="bpe", help="how pieces are found (default bpe)")
    parser.add_argument(
        "--sample-limit",
        type=positive,
        default=2_000_000,
        metavar="SENTENCES",
        help="most sentences kept in memory, drawn evenly from all inputs (default 2000000)",
    )
    parser.add_argument(
        "--threads", type=positive, default=os.cpu_count() or 1, metavar="N", help="threads of the trainer"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
