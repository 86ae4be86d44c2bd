"""Trains a SentencePiece tokenizer on the text of raw data: JSONL, Parquet, WebDatasets; files, folders or URLs.

Run: python tools/train_tokenizer.py --input a.jsonl.zst captions/ --vocabulary 32000 --output tokenizer.model
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import INTERRUPTED, refuse
from megatron_nmm.data.raw.sample import Drawn, sample_texts
from megatron_nmm.data.raw.schema import Schema
from megatron_nmm.data.raw.units import Unit, plan_units
from megatron_nmm.data.show import reading, rejections
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.data.vocabulary import learn
from megatron_nmm.errors import DataError, NMMError
from megatron_nmm.files import durable


def main(argv: Sequence[str] | None = None) -> int:
    """Train, write the model file and say what it is."""
    arguments = _arguments(argv)
    try:
        _train(arguments, Console(stderr=True))
        tokenizer = Tokenizer(arguments.output)
    except NMMError as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    print(f"{arguments.output}: {arguments.type}, {tokenizer.size:,} pieces, sha256 {tokenizer.sha256[:12]}")
    return 0


def _train(arguments: argparse.Namespace, console: Console) -> None:
    """Learn from the inputs and write the model; DataError when either is impossible."""
    schema = Schema.parse(arguments.schema) if arguments.schema else None
    model = learn(
        _texts(plan_units(arguments.input), schema, arguments.sample_bytes, console),
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


def _texts(units: Sequence[Unit], schema: Schema | None, limit: int, console: Console) -> Iterator[str]:
    """The sampled texts, with a progress bar and, when they are through, what was read and what was left out."""
    drawn = Drawn()
    with reading("sampling", sum(unit.bytes for unit in units), console) as tell:
        yield from sample_texts(units, schema, limit, drawn, tell)
    console.print(
        f"{drawn.text_bytes:,} bytes of text from {drawn.records:,} records in {len(units):,} units; "
        f"{drawn.rejected:,} of {drawn.records:,} records cannot be used and were left out",
        soft_wrap=True,
    )
    lines = (f"{one.where} {one.id}: {one.reason}" for one in drawn.examples)
    for line in rejections(lines, drawn.rejected, "the inputs"):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print("learning the pieces ...")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", required=True, metavar="RAW", help="files, folders or URLs of raw data")
    parser.add_argument(
        "--schema", metavar="ROLE=FIELD,...", help="which field is what, such as text=content (default: recognised)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL", help="model file to write")
    parser.add_argument(
        "--vocabulary", type=positive, required=True, metavar="PIECES", help="pieces, special and byte tokens included"
    )
    parser.add_argument("--type", choices=("bpe", "unigram"), default="bpe", help="how pieces are found (default bpe)")
    parser.add_argument(
        "--sample-bytes",
        type=positive,
        default=1 << 30,
        metavar="BYTES",
        help="most text that is read, each part of the inputs giving its share (default 1073741824)",
    )
    parser.add_argument(
        "--sample-limit",
        type=positive,
        default=2_000_000,
        metavar="SENTENCES",
        help="most sentences kept in memory, drawn evenly from the text that is read (default 2000000)",
    )
    parser.add_argument(
        "--threads", type=positive, default=os.cpu_count() or 1, metavar="N", help="threads of the trainer"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
