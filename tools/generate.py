"""Let a trained model go on with a text and images: greedy or drawn, told as it grows if you like.

    python tools/generate.py --model runs/digits/run --prompt "<image> plus <image> is" --image a.png --image b.png
    python tools/generate.py --model runs/digits/run --prompt "a photo of" --temperature 0.8 --top-p 0.9 --stream
    torchrun --nproc-per-node 2 tools/generate.py --model ... --prompt ... --set parallel.tensor=2

The answer goes to stdout, everything else to stderr. The same seed draws the same answer in every layout.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from megatron_nmm.config.arguments import add_model, positive
from megatron_nmm.data.prompt import require_images
from megatron_nmm.errors import DataError, NMMError
from megatron_nmm.evaluate.opened import opened
from megatron_nmm.generate.contract import Answer, Decoding
from megatron_nmm.train.main import refuse_once

ENDS = {"eos": "the end of sequence", "stop": "a stop string", "length": "the limit of --new-tokens"}


def main(argv: Sequence[str] | None = None) -> int:
    """Answer the prompt."""
    options = _arguments(argv)
    try:
        _answer(options)
    except NMMError as error:
        return refuse_once(error)
    return 0


def _answer(options: argparse.Namespace) -> None:
    decoding = Decoding(options.new_tokens, options.temperature, options.top_p, tuple(options.stop), options.seed)
    prompt = (options.prompt, tuple(_bytes(path) for path in options.image))
    require_images([prompt])
    with opened(options.model, options.set) as found:
        if found.is_main:
            print(found.source, file=sys.stderr)

        def say(number: int, piece: str) -> None:
            if found.is_main:
                print(piece, end="", flush=True)

        start = time.perf_counter()
        (answer,) = found.model.answers([prompt], decoding, say if options.stream else None)
        if found.is_main:
            print("" if options.stream else answer.text)
            print(_ending(answer, time.perf_counter() - start), file=sys.stderr)


def _ending(answer: Answer, seconds: float) -> str:
    count = len(answer.tokens)
    return f"{count} tokens in {seconds:.2f} s ({count / seconds:.1f} a second), ended by {ENDS[answer.ended]}"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error.strerror}; give --image the path of a file") from error


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model(parser)
    parser.add_argument("--prompt", required=True, help="text, with <image> where an image stands")
    parser.add_argument(
        "--image", type=Path, action="append", default=[], help="file of the next image; once for each marker"
    )
    parser.add_argument("--new-tokens", type=positive, default=64, metavar="N", help="most tokens (default 64)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) takes the likeliest token")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw among the likeliest tokens that reach this")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument("--stream", action="store_true", help="print the answer as it grows")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
