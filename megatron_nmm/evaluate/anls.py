"""Average normalised Levenshtein similarity: how nearly an answer is read right (Biten et al., arXiv 1905.13648, 3)."""

from collections.abc import Sequence

THRESHOLD = 0.5
"""A distance of this share of the longer text, or more, counts as wrong."""


def anls(answer: str, references: Sequence[str]) -> float:
    """The best similarity to one of ``references``, case and white space aside: 1 - distance / length, or 0 when that
    is not above ``THRESHOLD``."""
    return max(_similarity(_plain(answer), _plain(reference)) for reference in references)


def _similarity(first: str, second: str) -> float:
    longest = max(len(first), len(second))
    share = levenshtein(first, second) / longest if longest else 0.0
    return 1 - share if share < THRESHOLD else 0.0


def levenshtein(first: str, second: str) -> int:
    """Fewest letters to insert, delete or replace to make ``second`` of ``first``."""
    row = list(range(len(second) + 1))
    for number, letter in enumerate(first, 1):
        diagonal, row[0] = row[0], number
        for place, other in enumerate(second, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (letter != other))
    return row[-1]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
