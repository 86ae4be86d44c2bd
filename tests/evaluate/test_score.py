"""Every item is answered, measured and scored once, and means are taken by kind."""

import json
import math

import pytest

from megatron_nmm.evaluate import score as module
from megatron_nmm.evaluate.items import Item
from megatron_nmm.evaluate.score import as_json, continuation, evaluate_items, summary
from megatron_nmm.generate.contract import Decoding
from tests.evaluate.fakes import Parrot

ITEMS = [
    Item("1", "text", ("one", ()), ("one",)),
    Item("2", "text", ("two", ()), ("2", "II")),
    Item("3", "caption", ("<image> three", (b"i",)), ("three",)),
]


def test_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    parrot, told = Parrot(lambda text, images: f" {text.removeprefix('<image> ')} "), []
    scored = evaluate_items(parrot, ITEMS, Decoding(4), ["exact_match", "anls"], told.append)
    assert told == [2, 3]
    assert [one.answer for one in scored] == ["one", "two", "three"]
    assert [one.scores["exact_match"] for one in scored] == [1, 0, 1]
    assert [(text, end) for _, text, end in parrot.measured] == [(" one", True), (" 2", True), (" three", True)]
    assert len(parrot.asked) == 3 and {decoding for _, decoding in parrot.asked} == {Decoding(4)}
    means = summary(scored)
    assert list(means) == ["text", "caption", "all"]
    # Letters cost two nats without an image: 4 + 2 letters and two ends; with one, 6 letters and an end cost 6.
    assert means["text"] == {
        "items": 2,
        "loss": 12 / 8,
        "perplexity": math.exp(12 / 8),
        "exact_match": 50,
        "anls": 50,
    }
    assert means["all"]["loss"] == (12 + 6) / (8 + 7)
    assert means["all"]["exact_match"] == pytest.approx(200 / 3)
    assert json.loads(json.dumps(as_json(scored[1]))) == {
        "id": "2",
        "kind": "text",
        "prompt": "two",
        "references": ["2", "II"],
        "answer": "two",
        "loss": {"nats": 4.0, "tokens": 3, "greedy": True},
        "scores": {"exact_match": 0.0, "anls": 0.0},
    }


@pytest.mark.parametrize(
    ("prompt", "reference", "joined"),
    [("a", "b", "a b"), ("a ", "b", "a b"), ("a", " b", "a b"), ("a\n", "b", "a\nb"), ("", "b", "b")],
)
def test_a_reference_stands_apart_from_the_prompt(prompt: str, reference: str, joined: str) -> None:
    assert prompt + continuation(Item("1", "text", (prompt, ()), (reference,))) == joined
