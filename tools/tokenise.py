r"""Turns JSONL records and their images into a corpus of token ids: everything that can be known before training.

Run: python tools/tokenise.py --input a.jsonl --images raw --tokenizer tokenizer.model \
         --image-size 224 --patch 14 --output corpus

Finished inputs are kept when the run is interrupted: the same command continues. Records that cannot be used stand in
rejected.parquet with their reason.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_nmm.data.rule import ImageRule
from megatron_nmm.data.shard import Settings
from megatron_nmm.data.show import Tell, reading
from megatron_nmm.data.tables import read_table
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import NMMError

SHOWN_REJECTIONS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Write or continue a corpus and say what it holds."""
    arguments = _arguments(argv)
    console = Console(stderr=True)
    try:
        settings = Settings(
            source=arguments.source or arguments.output.resolve().name,
            tokenizer=Tokenizer(arguments.tokenizer),
            rule=ImageRule(arguments.image_size, arguments.patch),
            image_root=arguments.images or arguments.input[0].parent,
        )
        info = _tokenise(arguments, settings, console)
    except NMMError as error:
        console.print(f"tokenise: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print(
            "tokenise: interrupted; finished inputs are kept, the same command continues", style="red", soft_wrap=True
        )
        return 130
    _summarise(arguments.output, info)
    return 0


def _tokenise(arguments: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    """Run with one progress bar per input."""
    bars: dict[Path, Tell] = {}
    with ExitStack() as stack:

        def progress(path: Path, done: int, samples: int) -> None:
            if path not in bars:
                stack.close()
                bars[path] = stack.enter_context(reading(path, console))
            bars[path](done, samples)

        return tokenise(arguments.input, arguments.output, settings, progress)


def _summarise(output: Path, info: dict[str, Any]) -> None:
    """Counts, and the first rejections with their reasons."""
    counts = info["counts"]
    print(
        f"{output}: {counts['samples']:,} samples, {counts['tokens']:,} tokens "
        f"({counts.get('image_tokens', 0):,} image, {counts.get('supervised_tokens', 0):,} supervised), "
        f"{counts['images']:,} images, {counts['rejected']:,} rejected"
    )
    shown = 0
    for shard in info["shards"]:
        table = output / shard["folder"] / "rejected.parquet"
        for row in (
            read_table(table).slice(0, SHOWN_REJECTIONS - shown).to_pylist() if shard["counts"]["rejected"] else []
        ):
            print(f"  rejected {row['where']} {row['id']}: {row['reason']}")
            shown += 1
    if counts["rejected"] > shown:
        print(f"  ... and {counts['rejected'] - shown:,} more in {output}/shards/*/rejected.parquet")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--input", type=Path, nargs="+", required=True, metavar="JSONL", help="record files, one shard each"
    )
    parser.add_argument(
        "--images", type=Path, metavar="ROOT", help="folder image paths start from (default: the input's)"
    )
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="MODEL", help="SentencePiece model")
    parser.add_argument(
        "--image-size", type=int, default=224, help="side of the square images are resized to (default 224)"
    )
    parser.add_argument("--patch", type=int, default=14, help="side of a patch in pixels (default 14)")
    parser.add_argument("--source", default="", help="name of the corpus in reports (default: the output folder's)")
    parser.add_argument("--output", type=Path, required=True, metavar="CORPUS", help="folder to write or continue")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
