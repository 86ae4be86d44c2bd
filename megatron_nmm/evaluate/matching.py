"""Scores of one short answer against what people answered: exact match, VQA accuracy, relaxed accuracy."""

import re
from collections.abc import Sequence

ARTICLES = {"a", "an", "the"}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
"""Words that VQA counts as numbers."""


def plain(text: str) -> str:
    """``text`` in lower case, white space made single, without a full stop at its end."""
    return " ".join(text.lower().split()).rstrip(".").rstrip()


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 when ``answer`` equals one of ``references``, case, white space and a last full stop aside; else 0."""
    return float(plain(answer) in map(plain, references))


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """How far people agree with ``answer``: min(1, how many gave it / 3), averaged over all but one of them at a time.

    Antol et al. 2015 (arXiv 1505.00468, section 4), for ten ``references``; as in its public evaluation both sides are
    normalised by ``vqa_form``. With fewer than four the formula cannot reach 1: there, 1 when one of them matches.
    """
    given, people = vqa_form(answer), [vqa_form(reference) for reference in references]
    if len(people) < 4:
        return float(given in people)
    same = [given == reference for reference in people]
    return sum(min(1.0, (sum(same) - mine) / 3) for mine in same) / len(people)


def vqa_form(text: str) -> str:
    """Lower case, digits for number words, no articles, no punctuation but the point and comma inside numbers.

    Apostrophes go without leaving a gap, which makes contractions with and without them alike.
    """
    text = re.sub(r"(?<=\d),(?=\d)", "", text.lower().replace("'", "").replace("\u2019", ""))
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", text)
    words = re.sub(r"[^\w\s.]|_", " ", text).split()
    return " ".join(DIGITS.get(word, word) for word in words if word not in ARTICLES)


def relaxed_accuracy(answer: str, references: Sequence[str]) -> float:
    """1 for a number within 5 % of a reference, or an exact match of words; else 0 (ChartQA, arXiv 2203.10244, 5.1)."""
    return float(any(_close(answer, reference) for reference in references))


def _close(answer: str, reference: str) -> bool:
    said, truth = _number(answer), _number(reference)
    if said is None or truth is None:
        return plain(answer) == plain(reference)
    return abs(said - truth) <= 0.05 * abs(truth)


def _number(text: str) -> float | None:
    """The number that ``text`` is, 12 for "12 %" as for "12"; None for other text."""
    found = re.fullmatch(r"[-+]?\d+(\.\d*)?|[-+]?\.\d+", plain(text).replace(",", "").removesuffix("%").rstrip())
    return float(found[0]) if found else None
