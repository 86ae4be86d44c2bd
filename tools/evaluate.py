"""Score a trained model's answers to questions with images: losses by kind, exact match, VQA accuracy, ANLS, CIDEr.

    python tools/evaluate.py --model runs/digits/run --data questions.jsonl --output scores.json
    torchrun --nproc-per-node 4 tools/evaluate.py --model ... --data ... --metric cider --new-tokens 32

A line of --data: {"prompt": "<image> How many dogs?", "images": ["dogs.jpg"], "references": ["two", "2"]}, and id and
kind if you like. Processes share the questions; each is answered once. Answers are greedy.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from megatron_nmm.config.arguments import add_model, positive
from megatron_nmm.errors import ConfigError, NMMError
from megatron_nmm.evaluate.benchmarks import RUN_HERE
from megatron_nmm.evaluate.items import read_items
from megatron_nmm.evaluate.metrics import METRICS
from megatron_nmm.evaluate.opened import opened
from megatron_nmm.evaluate.score import as_json, evaluate_items, summary
from megatron_nmm.files import durable
from megatron_nmm.generate.contract import Decoding
from megatron_nmm.train.main import refuse_once

FORMATS = {"items": "{:,.0f}", "loss": "{:.4f}", "perplexity": "{:,.3f}"}
"""How columns are shown; scores have one decimal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate and tell."""
    options = _arguments(argv)
    try:
        _evaluate(options)
    except NMMError as error:
        return refuse_once(error)
    return 0


def _evaluate(options: argparse.Namespace) -> None:
    file, metrics = options.data, options.metric or list(METRICS)
    if options.benchmark:
        benchmark = RUN_HERE[options.benchmark]
        file, metrics = options.data / benchmark.file, options.metric or [benchmark.score]
    items = read_items(file, options.images, options.most)
    decoding = Decoding(options.new_tokens, stop=tuple(options.stop))
    with opened(options.model, options.set, options.rows) as found:
        with _progress(len(items), found.is_main) as tell:
            scored = evaluate_items(found.model, items, decoding, metrics, tell)
        if not found.is_main:
            return
        means = summary(scored)
        if options.output:
            results = {"model": found.source, "data": str(file), "new_tokens": options.new_tokens}
            results |= {"stop": list(decoding.stop), "means": means, "items": [as_json(one) for one in scored]}
            _write(options.output, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        console = Console(highlight=False)
        console = console if console.is_terminal else Console(highlight=False, width=160)
        console.print(_table(means, f"{file} answered by {found.source}"), markup=False)


def _table(means: dict[str, dict[str, float]], title: str) -> Table:
    columns = list(next(iter(means.values())))
    table = Table("kind", *columns, title=title)
    for kind, row in means.items():
        table.add_row(kind, *(FORMATS.get(name, "{:.1f}").format(row[name]) for name in columns))
    return table


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(path, text.encode())
    except OSError as error:
        raise ConfigError(f"--output {path} cannot be written: {error.strerror}; name another file") from error


@contextmanager
def _progress(items: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on the main process's terminal."""
    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task("answering", total=items)
        yield lambda done: progress.update(task, completed=done)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model(parser)
    parser.add_argument("--data", type=Path, required=True, help="questions, one JSON object a line")
    parser.add_argument(
        "--benchmark", choices=sorted(RUN_HERE), help="take its file under --data, then a folder, and its score"
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="where image paths start (default: beside --data)"
    )
    parser.add_argument(
        "--metric", action="append", choices=sorted(METRICS), help="a score to compute (default: all); may be repeated"
    )
    parser.add_argument("--new-tokens", type=positive, default=32, metavar="N", help="most tokens (default 32)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end answers before it")
    parser.add_argument("--most", type=positive, metavar="N", help="take the first N questions only")
    parser.add_argument("--rows", type=positive, metavar="N", help="questions that run together (default 32)")
    parser.add_argument("--output", type=Path, metavar="JSON", help="write means and every answer with its scores")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
