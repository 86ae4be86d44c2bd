"""Tells what fed a step of a run, as a table and a contact sheet, or in which steps a sample was read.

Run: python tools/blame.py --run runs/digits --step 120
     python tools/blame.py --run runs/digits --sample caption-17
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.data.blame import Fed, History
from megatron_nmm.data.contact_sheet import contact_sheet
from megatron_nmm.data.decoders.select import choose
from megatron_nmm.data.raw.record import KINDS
from megatron_nmm.data.readable import pictures, readable, shorten
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import NMMError

TEXT = 60
"""Letters of a sample's text in the table."""
SHEET_IMAGES = 60


def main(argv: Sequence[str] | None = None) -> int:
    """Answer the question and say where the pictures are."""
    arguments = _arguments(argv)
    try:
        history = History(arguments.run)
        if arguments.sample is not None:
            _reads(history, arguments.sample)
        else:
            _step(history, arguments)
    except NMMError as error:
        return refuse(error)
    return 0


def _step(history: History, arguments: argparse.Namespace) -> None:
    fed = history.step(arguments.step)
    tokenizer = Tokenizer(arguments.tokenizer or history.run.data.tokenizer)
    texts = [readable(one.sample, tokenizer, one.source.corpus.rule.shuffle) for one in fed]
    _show(fed, texts, arguments.step)
    decoder = choose("auto", "fast")
    shown = [
        picture
        for one, text in zip(fed, texts, strict=True)
        for picture in pictures(one.source.corpus, one.sample, f"{one.sample.id} · {one.source.name}", text, decoder)
    ]
    if not shown:
        print("no images in this step")
        return
    path = arguments.output or arguments.run / f"step-{arguments.step:08d}.png"
    images = f"{len(shown):,} images" if len(shown) <= SHEET_IMAGES else f"{SHEET_IMAGES} of {len(shown):,} images"
    contact_sheet(shown[:SHEET_IMAGES], path, f"step {arguments.step} of {arguments.run}: {images}")
    print(f"{images} in {path}")


def _show(fed: Sequence[Fed], texts: Sequence[str], step: int) -> None:
    table = Table("row", "source", "epoch", "sample", "kind", "tokens", "images", "text", title=f"step {step}")
    for one, text in zip(fed, texts, strict=True):
        table.add_row(
            str(one.pack),
            one.source.name,
            str(one.epoch + 1),
            _name(one),
            KINDS[one.sample.kind],
            f"{len(one.sample.tokens):,}",
            str(len(dict.fromkeys(one.sample.images))),
            shorten(text, TEXT),
        )
    _console().print(table, markup=False)
    tokens = sum(len(one.sample.tokens) for one in fed)
    rows = len({one.pack for one in fed})
    print(f"{len(fed):,} samples with {tokens:,} tokens in {rows:,} rows fed step {step}")


def _reads(history: History, sample: str) -> None:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("looking through the run")

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        reads = list(history.reads(sample, tell))
    for fed in reads:
        print(f"step {fed.step}, row {fed.pack}, source {fed.source.name}, epoch {fed.epoch + 1}: {_name(fed)}")
    steps = len(history.entries.steps)
    print(f"{sample} was read {len(reads):,} times in the {steps:,} steps of {history.folder}")


def _name(fed: Fed) -> str:
    return f"{fed.sample.id} (for bad {fed.stands_for})" if fed.stands_for else fed.sample.id


def _console() -> Console:
    """Wide where nobody looks, so that a log or another program gets every column whole."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run")
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument("--step", type=positive, help="show what fed this step")
    question.add_argument("--sample", metavar="ID", help="list the steps that read this sample")
    parser.add_argument("--tokenizer", help="where the run's tokenizer is now (default: as in its configuration)")
    parser.add_argument("--output", type=Path, metavar="PNG", help="contact sheet (default: RUN/step-NNNNNNNN.png)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
