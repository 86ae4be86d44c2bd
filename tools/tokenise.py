r"""Turns JSONL records and their images into a corpus of token ids: everything that can be known before training.

Run: python tools/tokenise.py --input a.jsonl --images raw --tokenizer tokenizer.model \
         --image-size 224 --patch 14 --output corpus

Finished inputs are kept when the run is interrupted: the same command continues. Records that cannot be used stand in
rejected.parquet with their reason.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import INTERRUPTED, refuse
from megatron_nmm.data.rule import ImageRule
from megatron_nmm.data.shard import Settings
from megatron_nmm.data.show import SHOWN_REJECTIONS, Tell, reading, rejections
from megatron_nmm.data.tables import read_table
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError, NMMError


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
        _summarise(arguments.output, info)
    except NMMError as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("interrupted; finished inputs are kept, the same command continues", file=sys.stderr)
        return INTERRUPTED
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
    """Counts, and the first rejections with their reasons; DataError when nothing else is left."""
    counts = info["counts"]
    print(
        f"{output}: {counts['samples']:,} samples, {counts['tokens']:,} tokens "
        f"({counts.get('image_tokens', 0):,} image, {counts.get('supervised_tokens', 0):,} supervised), "
        f"{counts['images']:,} images, {counts['rejected']:,} rejected"
    )
    for line in rejections(_rejected(output, info), counts["rejected"], f"{output}/shards/*/rejected.parquet"):
        print(line)
    if not counts["samples"]:
        raise DataError(
            f"{output} holds no sample; correct --images or the records, remove {output} and run the command again"
        )


def _rejected(output: Path, info: dict[str, Any]) -> Iterator[str]:
    """The first rejections of every shard that has any."""
    for shard in info["shards"]:
        if shard["counts"]["rejected"]:
            for row in read_table(output / shard["folder"] / "rejected.parquet").slice(0, SHOWN_REJECTIONS).to_pylist():
                yield f"{row['where']} {row['id']}: {row['reason']}"


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
        "--image-size",
        type=positive,
        default=224,
        metavar="PIXELS",
        help="side of the square images are resized to (default 224)",
    )
    parser.add_argument("--patch", type=positive, default=14, metavar="PIXELS", help="side of a patch (default 14)")
    parser.add_argument(
        "--source", default="", metavar="NAME", help="name of the corpus in reports (default: the output folder's)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="CORPUS", help="folder to write or continue")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
