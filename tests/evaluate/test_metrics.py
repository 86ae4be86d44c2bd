"""Every score against values worked out by hand."""

import math

import pytest

from megatron_nmm.evaluate.anls import anls, levenshtein
from megatron_nmm.evaluate.cider import cider, words
from megatron_nmm.evaluate.matching import exact_match, relaxed_accuracy, vqa_accuracy, vqa_form
from megatron_nmm.evaluate.metrics import METRICS, nats_per_token
from megatron_nmm.generate.contract import Likelihood


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("Seven.", ["seven"], 1),
        (" two  dogs", ["cats", "Two dogs"], 1),
        ("seven eight", ["seven"], 0),
        ("", ["seven"], 0),
    ],
)
def test_exact_match(answer: str, references: list[str], score: float) -> None:
    assert exact_match(answer, references) == score


@pytest.mark.parametrize(
    ("answer", "people", "score"),
    [
        # Ten people, three said red: seven of ten subsets hold all three (1), three hold two (2/3).
        ("red", ["red"] * 3 + ["blue"] * 7, (7 * 1 + 3 * 2 / 3) / 10),
        ("red", ["red"] * 1 + ["blue"] * 9, (9 * 1 / 3 + 0) / 10),
        ("red", ["red"] * 2 + ["blue"] * 8, (8 * 2 / 3 + 2 * 1 / 3) / 10),
        ("red", ["red"] * 4 + ["blue"] * 6, 1),
        ("green", ["red"] * 10, 0),
        ("The Two Dogs!", ["2 dogs"] * 10, 1),
        ("red", ["blue", "red"], 1),
        ("red", ["blue"], 0),
    ],
)
def test_vqa_accuracy(answer: str, people: list[str], score: float) -> None:
    assert vqa_accuracy(answer, people) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("A red car.", "red car"),
        ("don't", "dont"),
        ("1,000.50 m", "1000.50 m"),
        ("yes/no", "yes no"),
        ("None", "0"),
        ("ten o'clock", "10 oclock"),
        ("snow_board", "snow board"),
        ("the", ""),
    ],
)
def test_the_form_of_vqa_answers(text: str, form: str) -> None:
    assert vqa_form(text) == form


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("105", "100", 1),
        ("105.1", "100", 0),
        ("95 %", "100", 1),
        ("1,000", "1000", 1),
        ("-10", "10", 0),
        ("0", "0", 1),
        ("0.01", "0", 0),
        ("Norway.", "norway", 1),
        ("12 apples", "12", 0),
        ("nan", "nan", 1),
    ],
)
def test_relaxed_accuracy(answer: str, reference: str, score: float) -> None:
    assert relaxed_accuracy(answer, [reference]) == score
    assert relaxed_accuracy(answer, ["something else", reference]) == score


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2), ("flaw", "lawn", 2)],
)
def test_letters_to_change(first: str, second: str, distance: int) -> None:
    assert levenshtein(first, second) == levenshtein(second, first) == distance


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("Sitting", ["kitten"], 1 - 3 / 7),
        ("ab", ["cd"], 0),
        # Half of the letters: not below the threshold.
        ("abcd", ["abxy"], 0),
        ("abcd", ["xyzw", "abcx"], 0.75),
        ("12  MAY", ["12 may"], 1),
        ("", ["a"], 0),
        ("", [""], 1),
    ],
)
def test_anls(answer: str, references: list[str], score: float) -> None:
    assert anls(answer, references) == pytest.approx(score)


OTHER = (["a dog"], "a dog")
"""The references of, and the answer to, a second image: "a" stands with both, and weighs log(2 / 2) = 0."""


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        # Of n = 1 to 4, "cat" and "a cat" agree wholly, longer n-grams there are none.
        ("A cat.", ["a cat"], 10 * (1 + 1) / 4),
        ("a dog", ["a cat"], 0),
        # "cat" twice, clipped to once: L * L / (2 L * L); "cat cat" is not in the reference.
        ("cat cat", ["a cat"], 10 * (1 / 2) / 4),
        # One word of two, one word too short.
        ("cat", ["a cat"], 10 * 1 / 4 * math.exp(-1 / 72)),
        # The mean over two references, of which one agrees.
        ("a cat", ["a cat", "big animal"], 10 * (2 / 4 + 0) / 2),
        # Unigrams: black, cat against black, bird: 1 / (sqrt 2 * sqrt 2). Bigrams "a black" of 2 each; trigrams differ.
        ("a black cat", ["a black bird"], 10 * (1 / 2 + 1 / 2) / 4),
        ("", ["a cat"], 0),
    ],
)
def test_cider(answer: str, references: list[str], score: float) -> None:
    assert cider([answer, OTHER[1]], [references, OTHER[0]])[0] == pytest.approx(score)


def test_a_rare_word_weighs_more_than_a_common_one() -> None:
    references = [["x y"], ["x z"], ["w v"], ["w u"]]
    common, rare = cider(["x", "z", "w", "w"], references)[:2]
    heavy, light = math.log(4 / 1), math.log(4 / 2)
    length = math.hypot(heavy, light)
    assert common == pytest.approx(10 / 4 * math.exp(-1 / 72) * light / length)
    assert rare == pytest.approx(10 / 4 * math.exp(-1 / 72) * heavy / length)


def test_one_image_alone_has_no_rare_words() -> None:
    assert cider(["a cat"], [["a cat"]]) == [0.0]
    assert cider([], []) == []


def test_words_of_a_caption() -> None:
    assert words('A "well-known" man\'s hat, 3.5 m (or so)...') == [
        "a",
        "well-known",
        "man's",
        "hat",
        "3.5",
        "m",
        "or",
        "so",
    ]


def test_the_table_scores_lists() -> None:
    answers, references = ["7", "cat"], [["seven", "7"], ["a cat"]]
    found = {name: metric.score(answers, references) for name, metric in METRICS.items()}
    assert found["exact_match"] == [1, 0]
    assert found["vqa_accuracy"] == [1, 1]
    assert found["relaxed_accuracy"] == [1, 0]
    assert found["anls"] == [1, pytest.approx(1 - 2 / 5)]
    assert len(found["cider"]) == 2


def test_loss_is_a_mean_over_tokens() -> None:
    assert nats_per_token([Likelihood(3.0, 1, True), Likelihood(3.0, 3, False)]) == 1.5
    assert math.isnan(nats_per_token([]))
