"""Tells what a mixture of packed corpora will read, before a run: shares, epochs per source, and which run out when.

Run: python tools/mix.py --preset p1 --steps 100000 --global-batch 2048 \\
     --corpus caption=corpora/caption --corpus interleaved=corpora/interleaved --corpus text=corpora/text
     python tools/mix.py --packs 1000000 --corpus web=corpora/web --corpus code=corpora/code \\
     --weight web=0.8 --weight code=0.2 --max-epochs code=4
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.config.schema import DataConfig, RunConfig, ShareOf, SourceConfig
from megatron_nmm.data.corpus import read_info
from megatron_nmm.data.forecast import Forecast, Realised, course, forecast, realised
from megatron_nmm.data.mix_plot import mix_plot
from megatron_nmm.data.mixture import Mixture
from megatron_nmm.data.mixture_presets import TRIPLES, weights
from megatron_nmm.data.plan import Plan
from megatron_nmm.data.portions import portion
from megatron_nmm.errors import ConfigError, DataError, NMMError

COUNTED: tuple[ShareOf, ...] = ("tokens", "samples")
TABLE_WIDTH = 130
"""Characters of the table of a large mixture."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, draw the picture, and say how a run gets this mixture."""
    arguments = _arguments(argv)
    try:
        configs = _configs(arguments)
        plans = _open(configs, arguments)
        portions = [portion(name, config, plans[name], arguments.share_of) for name, config in configs.items()]
        mixture = Mixture(portions, arguments.seed, arguments.temperature)
        packs = arguments.packs or arguments.steps * arguments.global_batch
        _print_table(_table(mixture, plans, packs, arguments))
        mixture.require(packs)
        if arguments.verify:
            _print_realised(_realised(mixture, arguments.verify), mixture, arguments.share_of)
        _draw(mixture, packs, arguments)
    except NMMError as error:
        return refuse(error)
    _print_use(list(configs.values()), arguments)
    return 0


def _configs(arguments: argparse.Namespace) -> dict[str, SourceConfig]:
    """Name -> source; ConfigError when names, weights and limits do not go together."""
    corpora = _pairs(arguments.corpus, "--corpus")
    given = {name: _number(text, f"--weight {name}") for name, text in _pairs(arguments.weight, "--weight").items()}
    limits = {n: _number(text, f"--max-epochs {n}") for n, text in _pairs(arguments.max_epochs, "--max-epochs").items()}
    for option, values in (("--weight", given), ("--max-epochs", limits)):
        if unknown := [name for name in values if name not in corpora]:
            raise ConfigError(f"{option} {unknown[0]} names no corpus; the corpora are {', '.join(corpora)}")
    if arguments.preset and given:
        raise ConfigError("--preset and --weight both give weights; leave one of them out")
    if arguments.preset:
        given = weights(arguments.preset, corpora)
    if missing := [name for name in corpora if name not in given]:
        raise ConfigError(f"corpus {missing[0]} has no weight; add --weight {missing[0]}=NUMBER, or give a --preset")
    return {name: SourceConfig(path, weight=given[name], max_epochs=limits.get(name)) for name, path in corpora.items()}


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE arguments; ConfigError for one of another form and for a name that stands twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option} {text} is not of the form NAME=VALUE")
        if name in found:
            raise ConfigError(f"{option} {name} is given twice; keep one, or choose another name")
        found[name] = value
    return found


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{option}={text} is not a number") from None


def _open(configs: dict[str, SourceConfig], arguments: argparse.Namespace) -> dict[str, Plan]:
    """Name -> pack plan; DataError when one cannot be read, or they were made with different tokenizers."""
    plans: dict[str, Plan] = {}
    tokenizers: dict[str, str] = {}
    for name, config in configs.items():
        info = read_info(Path(config.corpus))
        folder = Path(config.plan_path(arguments.sequence_length))
        plans[name] = Plan(folder, str(info["fingerprint"]), arguments.sequence_length)
        tokenizers.setdefault(info["tokenizer"]["sha256"], config.corpus)
    if len(tokenizers) > 1:
        raise DataError(
            f"corpora {' and '.join(tokenizers.values())} were tokenised with different tokenizers, and a run has one; "
            "tokenise them again with the same --tokenizer"
        )
    return plans


def _print_table(table: Table) -> None:
    """On a narrow terminal lines are broken, never numbers cut."""
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    console.print(table)


def _table(mixture: Mixture, plans: dict[str, Plan], packs: int, arguments: argparse.Namespace) -> Table:
    """One row a source: what it holds, what is asked of it, what the run will have read."""
    title = f"{packs:,} packs of {arguments.sequence_length} tokens; shares are of {arguments.share_of}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("source", no_wrap=True)
    for column in ("packs", "tokens", "samples", "asked", "of packs", "read", "packs read", "epochs", "used up after"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = forecast(mixture, packs)
    totals = [0, 0, 0]
    for row, plan in zip(rows, plans.values(), strict=True):
        held = [row.packs, *(int(plan.counts(unit).sum()) for unit in COUNTED)]
        totals = [total + size for total, size in zip(totals, held, strict=True)]
        table.add_row(row.name, *(f"{size:,}" for size in held), *_shares(row, arguments))
    table.add_section()
    table.add_row("all", *(f"{total:,}" for total in totals), "", "", "", f"{sum(row.drawn for row in rows):,}")
    return table


def _shares(row: Forecast, arguments: argparse.Namespace) -> tuple[str, ...]:
    """The cells of a source that depend on the run."""
    end = "-"
    if row.used_up is not None:
        end = f"{row.used_up:,} packs"
        if arguments.steps:
            end += f", step {-(-row.used_up // arguments.global_batch):,}"
    shares = (f"{100 * share:.2f} %" for share in (row.asked, row.of_packs, row.read))
    return (*shares, f"{row.drawn:,}", f"{row.epochs:.3g}", end)


def _realised(mixture: Mixture, packs: int) -> Realised:
    """Draw packs behind a progress bar."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"drawing {packs:,} packs", total=packs)
        found = realised(mixture, packs, lambda done: progress.update(task, completed=done))
        progress.update(task, completed=packs)
    return found


def _print_realised(found: Realised, mixture: Mixture, unit: str) -> None:
    """Shares of the packs drawn, and the window that is farthest from what was asked."""
    print(
        f"drew the first {found.packs:,} packs; their shares of {unit}, and the worst of any {found.window:,} in line:"
    )
    for drawn, share, worst in zip(mixture.portions, found.shares, found.worst, strict=True):
        print(f"  {drawn.name} {100 * share:.3f} %, at most {100 * worst:.3f} % from what is asked")


def _draw(mixture: Mixture, packs: int, arguments: argparse.Namespace) -> None:
    """The picture; DataError when it cannot be written."""
    title = f"{arguments.preset or 'mixture'} over {packs:,} packs of {arguments.sequence_length} tokens"
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        mix_plot(forecast(mixture, packs), course(mixture, packs), arguments.share_of, arguments.output, title)
    except OSError as error:
        raise DataError(
            f"writing {arguments.output} failed: {error.strerror or error}; give --output the path of a file that you "
            "may write"
        ) from error
    print(f"picture {arguments.output}")


def _print_use(configs: Sequence[SourceConfig], arguments: argparse.Namespace) -> None:
    """The lines of a recipe, and the same as options of the command line."""
    print("in a recipe:")
    print("    DataConfig(\n        train=(")
    for config in configs:
        limit = "" if config.max_epochs is None else f", max_epochs={config.max_epochs!r}"
        print(f"            SourceConfig({json.dumps(config.corpus)}, weight={config.weight!r}{limit}),")
    print(f'        ),\n        share_of="{arguments.share_of}",')
    print(
        f"        temperature={arguments.temperature!r},\n        sequence_length={arguments.sequence_length},\n    )"
    )
    train: list[dict[str, Any]] = [
        {"corpus": config.corpus, "weight": config.weight}
        | ({} if config.max_epochs is None else {"max_epochs": config.max_epochs})
        for config in configs
    ]
    print("or on its command line:")
    print(f"    --set {shlex.quote(f'data.train={json.dumps(train)}')} --set data.share_of={arguments.share_of} \\")
    print(f"    --set data.temperature={arguments.temperature} --set data.sequence_length={arguments.sequence_length}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus",
        action="append",
        required=True,
        metavar="NAME=FOLDER",
        help="a packed corpus; with a preset NAME is caption, interleaved, text, or one of its data sets",
    )
    parser.add_argument(
        "--preset",
        metavar="MIXTURE",
        help=f"weights of P1: {', '.join(TRIPLES)}, or any caption-interleaved-text triple",
    )
    parser.add_argument("--weight", action="append", default=[], metavar="NAME=NUMBER", help="weight of a corpus")
    parser.add_argument(
        "--max-epochs", action="append", default=[], metavar="NAME=NUMBER", help="times a corpus is read at most"
    )
    parser.add_argument(
        "--share-of", choices=get_args(ShareOf), default="tokens", help="what the weights count (default tokens)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="above 1 small weights grow (default 1)")
    parser.add_argument(
        "--sequence-length", type=positive, default=DataConfig().sequence_length, metavar="TOKENS", help="of a pack"
    )
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--packs", type=positive, metavar="N", help="packs of the run")
    length.add_argument("--steps", type=positive, metavar="N", help="steps of the run")
    parser.add_argument(
        "--global-batch", type=positive, default=DataConfig().global_batch, metavar="PACKS", help="packs of a step"
    )
    parser.add_argument("--seed", type=int, default=RunConfig().seed, help="of the run; the order depends on it")
    parser.add_argument("--verify", type=positive, metavar="N", help="draw N packs and compare what they hold")
    parser.add_argument("--output", type=Path, default=Path("mixture.png"), metavar="PNG", help="picture to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
