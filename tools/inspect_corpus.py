"""Shows what a corpus holds: counts, histograms, reasons of rejection, images with their text, samples as text.

Run: python tools/inspect_corpus.py corpora/web
     python tools/inspect_corpus.py corpora/web --sample caption-17
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.data.contact_sheet import Picture, contact_sheet
from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.decoders.select import choose
from megatron_nmm.data.overview import Overview, overview, quantile
from megatron_nmm.data.overview_plot import overview_plot
from megatron_nmm.data.raw.record import KINDS
from megatron_nmm.data.readable import pictures, readable
from megatron_nmm.data.tables import read_table
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError, NMMError

SHOWN_REASONS = 10
TRIES = 50
"""Samples drawn per image wanted on the sheet; the others hold none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the overview or the samples asked for, and say where the pictures are."""
    arguments = _arguments(argv)
    try:
        if arguments.sample is not None or arguments.random is not None:
            _samples(arguments)
        else:
            _overview(arguments)
    except NMMError as error:
        return refuse(error)
    return 0


def _overview(arguments: argparse.Namespace) -> None:
    """The corpus as a whole; text below the images needs the tokenizer, the rest does not."""
    found = _count(arguments.corpus)
    folder = arguments.output or arguments.corpus
    corpus = Corpus(arguments.corpus)
    _print_counts(found)
    _print_rejected(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror}; give another --output") from error
    overview_plot(found, folder / "overview.png")
    print(f"histograms in {folder / 'overview.png'}")
    if found.sizes:
        shown = _pictures(corpus, _tokenizer(corpus, arguments), arguments.images, arguments.seed)
        contact_sheet(shown, folder / "images.png", f"{corpus.source}: {len(shown)} images drawn at random")
        print(f"{len(shown)} images in {folder / 'images.png'}")


def _count(folder: Path) -> Overview:
    columns = ("reading samples", MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return overview(folder, tell)


def _print_counts(found: Overview) -> None:
    info = found.info
    table = Table(
        title=f"{info['source']}, tokenizer {info['tokenizer']['file']} ({info['tokenizer']['size']:,} pieces)"
    )
    table.add_column("kind")
    for name in ("samples", "tokens", "supervised", "images", "p50", "p99", "longest"):
        table.add_column(name, justify="right")
    for name, kind in found.kinds.items():
        spread = (quantile(kind.lengths, 0.5), quantile(kind.lengths, 0.99), max(kind.lengths, default=0))
        numbers = (kind.samples, kind.tokens, kind.supervised_tokens, kind.images, *spread)
        table.add_row(name, *(f"{number:,}" for number in numbers))
    Console(highlight=False).print(table, markup=False)
    images = info["counts"].get("images", 0)
    print(f"{len(info['shards']):,} shards, {images:,} different images, image rule {info['image_rule']}")


def _print_rejected(found: Overview) -> None:
    print(f"{sum(reason.records for reason in found.reasons.values()):,} records rejected")
    for number, (text, reason) in enumerate(found.reasons.items()):
        if number == SHOWN_REASONS:
            print(f"  ... and {len(found.reasons) - SHOWN_REASONS:,} more reasons")
            break
        print(f"  {reason.records:,} x {text}")
        for name, where, full in reason.examples:
            print(f"      {name} ({where}): {full}")


def _pictures(corpus: Corpus, tokenizer: Tokenizer, wanted: int, seed: int) -> list[Picture]:
    """At most ``wanted`` images of samples drawn at random."""
    decoder = choose("auto", "fast")
    shown: list[Picture] = []
    numbers = random.Random(seed).sample(range(len(corpus)), min(len(corpus), TRIES * wanted))
    for number in numbers:
        sample = corpus.sample(number)
        if sample.images and len(shown) < wanted:
            text = readable(sample, tokenizer, corpus.rule.shuffle)
            shown += pictures(corpus, sample, sample.id, text, decoder)
    return shown[:wanted]


def _samples(arguments: argparse.Namespace) -> None:
    """Samples decoded back to text, and their images."""
    corpus = Corpus(arguments.corpus)
    tokenizer = _tokenizer(corpus, arguments)
    if arguments.sample is not None:
        numbers = [_number(corpus, arguments.sample)]
    else:
        numbers = random.Random(arguments.seed).sample(range(len(corpus)), min(arguments.random, len(corpus)))
    decoder = choose("auto", "fast")
    shown: list[Picture] = []
    for number in numbers:
        sample = corpus.sample(number)
        text = readable(sample, tokenizer, corpus.rule.shuffle)
        kind, images = KINDS[sample.kind], len(dict.fromkeys(sample.images))
        print(f"{sample.id}: {kind}, sample {number:,}, {len(sample.tokens):,} tokens, {images} images\n  {text}")
        shown += pictures(corpus, sample, sample.id, text, decoder)
    if shown:
        path = (arguments.output or arguments.corpus) / "samples.png"
        contact_sheet(shown, path, f"{corpus.source}: {len(numbers)} samples")
        print(f"{len(shown)} images in {path}")


def _number(corpus: Corpus, wanted: str) -> int:
    """Where the sample with this id stands; DataError when there is none."""
    before = 0
    for shard in corpus.info["shards"]:
        ids = read_table(corpus.folder / shard["folder"] / "samples.parquet", ["id"]).column("id")
        place: int = ids.index(wanted).as_py()
        if place >= 0:
            return before + place
        before += len(ids)
    raise DataError(
        f"corpus {corpus.folder} has no sample {wanted!r}; if it was rejected, rejected.parquet says why, and without "
        "--sample this tool lists the reasons"
    )


def _tokenizer(corpus: Corpus, arguments: argparse.Namespace) -> Tokenizer:
    """The tokenizer named on the command line, or the corpus's own beside it."""
    name = corpus.info["tokenizer"]["file"]
    beside = [folder / name for folder in (corpus.folder, corpus.folder.parent) if (folder / name).exists()]
    if arguments.tokenizer is None and not beside:
        raise DataError(f"the text of {corpus.folder} needs its tokenizer {name}; give --tokenizer with its path")
    tokenizer = Tokenizer(arguments.tokenizer or beside[0])
    corpus.require(tokenizer, corpus.rule)
    return tokenizer


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder written by tools/tokenise.py")
    question = parser.add_mutually_exclusive_group()
    question.add_argument("--sample", metavar="ID", help="decode this sample back to text, and show its images")
    question.add_argument("--random", type=positive, metavar="N", help="the same for N samples drawn at random")
    parser.add_argument("--tokenizer", type=Path, help="the corpus's tokenizer (default: looked for beside the corpus)")
    parser.add_argument("--images", type=positive, default=30, metavar="N", help="images on the contact sheet (30)")
    parser.add_argument("--seed", type=int, default=0, help="chooses what is drawn at random")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder of the pictures (default: the corpus)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
