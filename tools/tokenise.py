r"""Turns raw text and images into a corpus of token ids: everything that can be known before training.

Run: python tools/tokenise.py --input a.jsonl b.parquet c.tar --images raw --tokenizer tokenizer.model \
         --image-size 224 --patch 14 --output corpus

Inputs are JSONL (plain, .gz, .zst), Parquet and WebDataset tars, or folders and fsspec URLs of them. Finished shards
are kept when the run is interrupted: the same command continues. Records that cannot be used stand in rejected.parquet
with their reason.
"""

# Worker processes import this file: what only the parent needs is imported where it is used.
import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_nmm.errors import DataError, NMMError

if TYPE_CHECKING:
    from megatron_nmm.data.executors.protocol import Executor
    from megatron_nmm.data.settings import Settings
    from megatron_nmm.data.tokenise import Progress

SHOWN_REASONS = 10
"""Kinds of rejections in the summary."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write or continue a corpus and say what it holds."""
    from megatron_nmm.config.refusal import INTERRUPTED, refuse
    from megatron_nmm.data.tokenise import tokenise

    arguments = _arguments(argv)
    try:
        executor, settings = _executor(arguments), _settings(arguments)
        with _progress() as progress:
            info = tokenise(arguments.input, arguments.output, settings, progress, executor, arguments.unit_bytes)
        _summarise(arguments.output, info)
    except NMMError as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("interrupted; finished shards are kept, the same command continues", file=sys.stderr)
        return INTERRUPTED
    return 0


def _settings(arguments: argparse.Namespace) -> "Settings":
    from megatron_nmm.data.raw.schema import Schema
    from megatron_nmm.data.rule import rule_of
    from megatron_nmm.data.settings import Settings
    from megatron_nmm.data.tokens import Tokenizer

    return Settings(
        source=arguments.source or arguments.output.resolve().name,
        tokenizer=Tokenizer(arguments.tokenizer),
        rule=rule_of(
            arguments.image_rule,
            patch=arguments.patch,
            image_size=arguments.image_size,
            min_patches=arguments.min_patches,
            max_patches=arguments.max_patches,
            multi_scale=arguments.multi_scale,
            shuffle=arguments.shuffle,
        ),
        image_root=arguments.images,
        schema=Schema.parse(arguments.schema) if arguments.schema else None,
        verify=arguments.verify_images,
    )


def _executor(arguments: argparse.Namespace) -> "Executor":
    if arguments.executor == "ray":
        from megatron_nmm.data.executors.ray import RayExecutor

        return RayExecutor(arguments.workers, arguments.ray_address)
    from megatron_nmm.data.executors.local import LocalExecutor

    return LocalExecutor(arguments.workers)


@contextmanager
def _progress() -> Iterator["Progress"]:
    """One bar over the bytes of all inputs, with the time left; nothing when nobody watches."""
    if not sys.stderr.isatty():
        yield lambda done, total, samples: None
        return
    from rich.console import Console

    from megatron_nmm.data.show import reading

    with reading("tokenise", None, Console(stderr=True)) as tell:
        yield lambda done, total, samples: tell(done, samples, total)


def _summarise(output: Path, info: dict[str, Any]) -> None:
    """Counts, and the rejections by reason; DataError when nothing else is left."""
    counts = info["counts"]
    print(
        f"{output}: {counts['samples']:,} samples, {counts['tokens']:,} tokens "
        f"({counts.get('image_tokens', 0):,} image, {counts.get('supervised_tokens', 0):,} supervised), "
        f"{counts['images']:,} images, {counts['rejected']:,} rejected"
    )
    if counts["rejected"]:
        for line in _reasons(output, info):
            print(line)
    if not counts["samples"]:
        raise DataError(
            f"{output} holds no sample; correct --images or the records, remove {output} and run the command again"
        )


def _reasons(output: Path, info: dict[str, Any]) -> Iterator[str]:
    """One line per kind of reason, the most frequent first, each with its first example."""
    from megatron_nmm.data.reasons import reason_kind
    from megatron_nmm.data.tables import read_rows

    number: Counter[str] = Counter()
    example: dict[str, str] = {}
    for shard in info["shards"]:
        if shard["counts"]["rejected"]:
            for row in read_rows(output / shard["folder"] / "rejected.parquet"):
                kind = reason_kind(row["reason"])
                number[kind] += 1
                example.setdefault(kind, f"{row['where']} {row['id']}: {row['reason']}")
    for kind, count in number.most_common(SHOWN_REASONS):
        yield f"  rejected {count:,}: {example[kind] if count == 1 else f'{kind}; first {example[kind]}'}"
    if len(number) > SHOWN_REASONS:
        yield f"  ... and {len(number) - SHOWN_REASONS:,} more reasons"
    yield f"  every one of them: {output}/shards/*/rejected.parquet"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from megatron_nmm.config.arguments import positive

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATH", help="files, folders or URLs; new ones join at the end")
    add("--output", type=Path, required=True, metavar="CORPUS", help="folder to write or continue")
    add(
        "--tokenizer",
        required=True,
        metavar="MODEL",
        help="SentencePiece model, tokenizer.json, or a folder that holds one",
    )
    add("--schema", metavar="ROLE=FIELD,...", help="which field is what, as text=content,id=url (default: recognised)")
    add("--source", default="", metavar="NAME", help="name of the corpus in reports (default: the output folder's)")
    _add_images(parser)
    add("--workers", type=positive, default=_cores(), metavar="N", help="processes or actors (default: the cores)")
    add("--executor", choices=("local", "ray"), default="local", help="where they run (default local)")
    add("--ray-address", metavar="ADDRESS", help="Ray cluster (default: RAY_ADDRESS, else one on this machine)")
    add("--unit-bytes", type=positive, metavar="N", help="input of a shard (default: by the file, up to 1 GiB)")
    return parser.parse_args(argv)


def _add_images(parser: argparse.ArgumentParser) -> None:
    from megatron_nmm.config.arguments import positive

    add = parser.add_argument_group("images").add_argument
    add("--images", metavar="ROOT", help="folder or URL image paths start from (default: the input's)")
    add("--verify-images", choices=("decode", "header"), default="decode", help="how much is checked (default decode)")
    add("--image-rule", choices=("square", "native"), default="square", help="what becomes of an image")
    add("--image-size", type=positive, default=224, metavar="PIXELS", help="square: side images get (default 224)")
    add("--patch", type=positive, default=14, metavar="PIXELS", help="side of a patch (default 14)")
    add("--min-patches", type=positive, default=256, metavar="N", help="native: fewest patches (default 256)")
    add("--max-patches", type=positive, default=24_576, metavar="N", help="native: most patches (default 24576)")
    add("--multi-scale", action="store_true", help="native: smaller copies stand before an image")
    add(
        "--shuffle",
        type=positive,
        default=1,
        metavar="N",
        help="N x N patches become one token (default 1; 2 for models whose connector is pixel_shuffle)",
    )


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    sys.exit(main())
