"""Types of command line arguments that tools share; a wrong one is told in words."""

import argparse
import math
from pathlib import Path


def positive(text: str) -> int:
    """A whole number of at least 1, for ``argparse``'s ``type``."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def finite_above_zero(text: str) -> float:
    """A number above 0, such as ``1e22``, for ``argparse``'s ``type``."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def add_model(parser: argparse.ArgumentParser) -> None:
    """``--model`` and ``--set`` of tools that open a trained model (evaluate/opened.py)."""
    parser.add_argument(
        "--model",
        "--run",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of a run, or of an export; torchrun takes --run for an option of its own, so write --model there",
    )
    _add_set(parser, "change the run, e.g. parallel.tensor=2")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """``--recipe`` and ``--set`` of tools that look at a run before it is started (config/recipe_file.py)."""
    parser.add_argument(
        "--recipe", required=True, metavar="FILE[:PRESET]", help="Python file with a function recipe(), or its preset"
    )
    _add_set(parser, "change one value of the recipe")


def _add_set(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"{text}; may be repeated")
