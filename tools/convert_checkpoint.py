"""Convert a training checkpoint to a Hugging Face folder and back, and verify an export; one process, no GPU.

    python tools/convert_checkpoint.py to-hf runs/run export                     # a run's folder, or one checkpoint
    python tools/convert_checkpoint.py to-hf runs/run export --family navil_chat --dtype bf16
    python tools/convert_checkpoint.py verify export
    python tools/convert_checkpoint.py from-hf export runs/converted              # --set init.checkpoint=runs/converted

Any layout of ranks goes in. One tensor is in memory at a time. What does not fit is refused, and nothing is written. An
export carries a proof card: hashes of its files, and scores and greedy tokens beside those of the trained model, which
``verify`` checks and works out again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_nmm.checkpoint.convert import card
from megatron_nmm.checkpoint.convert.exported import OPENERS
from megatron_nmm.checkpoint.convert.from_hf import DTYPES as DTYPES_IN
from megatron_nmm.checkpoint.convert.from_hf import from_hf
from megatron_nmm.checkpoint.convert.kinds import KINDS
from megatron_nmm.checkpoint.convert.own_files import read_chat_template
from megatron_nmm.checkpoint.convert.prove import proof
from megatron_nmm.checkpoint.convert.stored import StoredWeights
from megatron_nmm.checkpoint.convert.to_hf import DTYPES, LARGEST, run_of, to_hf
from megatron_nmm.checkpoint.families import LANGUAGE
from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import ConfigError, NMMError


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("to-hf", help="from a training checkpoint to a Hugging Face folder")
    out.add_argument("checkpoint", type=Path, help="folder of a run, or one of its checkpoints/step-...")
    out.add_argument("output", type=Path, help="the new folder")
    out.add_argument("--family", choices=list(KINDS), default=next(iter(KINDS)), help="form of the folder")
    out.add_argument("--dtype", choices=list(DTYPES), default="stored", help="number format (default: as stored)")
    out.add_argument("--tokenizer", metavar="PATH", help="default: the run's data.tokenizer")
    out.add_argument("--chat-template", type=Path, metavar="FILE", help="Jinja, for servers and apply_chat_template")
    out.add_argument(
        "--largest-file", type=positive, default=LARGEST, metavar="BYTES", help=f"default {LARGEST:,} bytes"
    )
    out.add_argument("--hashes-only", action="store_true", help="do not run the models for the proof card")
    check = commands.add_parser("verify", help="check an export against its proof card")
    check.add_argument("folder", type=Path, help="what to-hf wrote")
    back = commands.add_parser("from-hf", help="from a Hugging Face folder to a training checkpoint")
    back.add_argument("folder", type=Path, help="config.json and *.safetensors")
    back.add_argument("output", type=Path, help="the new folder of a run, for init.checkpoint")
    back.add_argument("--dtype", choices=list(DTYPES_IN), default="stored", help="number format (default: as stored)")
    return parser.parse_args(argv)


def say(line: str) -> None:
    """A line for whoever watches."""
    print(line, flush=True)


def export(options: argparse.Namespace) -> None:
    """to-hf."""
    template = options.chat_template and read_chat_template(options.chat_template)
    place = options.tokenizer or run_of(StoredWeights(options.checkpoint, say)).data.tokenizer
    if not place and KINDS[options.family].own:
        raise ConfigError(
            "the run has no data.tokenizer, and an export has to know which tokens are an image's; give it with "
            f"--tokenizer, or export the text alone (--family {', '.join(name for name in KINDS if name in LANGUAGE)})"
        )
    if not place:
        say("the run has no data.tokenizer, and none was given with --tokenizer: the folder gets none")
    tokenizer = Tokenizer(place) if place else None
    if template and not (KINDS[options.family].own and tokenizer):
        raise ConfigError(
            f"a chat template goes with a processor, and a folder of family {options.family} "
            f"{'has none' if tokenizer else 'without a tokenizer has none'}; leave --chat-template out"
        )
    done = to_hf(
        options.checkpoint,
        options.output,
        options.family,
        options.dtype,
        tokenizer,
        say,
        proof(
            options.checkpoint,
            options.family,
            options.dtype,
            tokenizer,
            answers=not options.hashes_only,
            chat_template=template,
        ),
        options.largest_file,
    )
    show(card.read(options.output))
    say(f"step {done.step} as {options.family} in {options.output}")


def show(found: card.Card) -> None:
    """The proof as a table."""
    if found.comparisons:
        table = Table("probe", "tokens", "patches", "largest score", "difference", "relative", "greedy tokens")
        for one in found.comparisons:
            sizes = (str(one.tokens), str(one.patches), f"{one.largest:.3g}", f"{one.difference:.1e}")
            table.add_row(one.probe, *sizes, f"{one.relative:.1e}", "equal" if one.greedy else "DIFFER")
        Console(width=120).print(table)
    else:
        say("hashes alone: the models were not run, or no library holds the code of this family")
    say(f"{found.mapped} tensors of step {found.step} as {found.family}; {len(found.files)} files match the card")


def main(argv: Sequence[str] | None = None) -> int:
    """Convert or verify, and say with the exit code whether it was done."""
    options = arguments(argv)
    try:
        if options.command == "to-hf":
            export(options)
        elif options.command == "verify":
            show(card.verify(options.folder, OPENERS))
        else:
            say(f"wrote {from_hf(options.folder, options.output, options.dtype, say)}")
    except NMMError as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
