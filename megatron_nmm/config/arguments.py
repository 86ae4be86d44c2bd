"""Types of command line arguments that tools share; a wrong one is told in words."""

import argparse


def positive(text: str) -> int:
    """A whole number of at least 1, for ``argparse``'s ``type``."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value
