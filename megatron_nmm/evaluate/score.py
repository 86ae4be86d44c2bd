"""An evaluation from beginning to end: answers and losses of items, their scores, and means by kind."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import batched
from typing import Any

from megatron_nmm.data.raw.record import KINDS
from megatron_nmm.evaluate.items import Item
from megatron_nmm.evaluate.metrics import METRICS, nats_per_token
from megatron_nmm.generate.contract import AnsweringModel, Decoding, Likelihood

ALL = "all"
"""The group of every item, beside those of ``KINDS``."""
CHUNK = 256
"""Items that go to the model in one call; progress is told after each."""


@dataclass(frozen=True)
class Scored:
    """What came of one item."""

    item: Item
    answer: str
    loss: Likelihood
    """Of its first reference, with the end of sequence."""
    scores: dict[str, float]


def evaluate_items(
    model: AnsweringModel,
    items: Sequence[Item],
    decoding: Decoding,
    metrics: Sequence[str],
    tell: Callable[[int], None] = lambda done: None,
) -> list[Scored]:
    """Answer, measure and score every item once; ``metrics`` name rows of METRICS. Collective; equal on every rank.

    ``tell`` hears how many items are done.
    """
    answers: list[str] = []
    losses: list[Likelihood] = []
    for chunk in batched(items, CHUNK):
        answers += [answer.text.strip() for answer in model.answers([item.prompt for item in chunk], decoding)]
        losses += model.likelihoods([(item.prompt, continuation(item)) for item in chunk], end=True)
        tell(len(answers))
    references = [item.references for item in items]
    columns = {name: METRICS[name].score(answers, references) for name in metrics}
    return [
        Scored(item, answer, loss, {name: column[place] for name, column in columns.items()})
        for place, (item, answer, loss) in enumerate(zip(items, answers, losses, strict=True))
    ]


def continuation(item: Item) -> str:
    """The first reference as it would stand behind the prompt: with a space between them unless one is there."""
    first, prompt = item.references[0], item.prompt[0]
    return first if prompt[-1:].isspace() or first[:1].isspace() or not prompt else f" {first}"


def groups(scored: Sequence[Scored]) -> Iterator[tuple[str, list[Scored]]]:
    """(kind, its items) for every kind there is, then all of them."""
    for kind in KINDS:
        if of_kind := [one for one in scored if one.item.kind == kind]:
            yield kind, of_kind
    yield ALL, list(scored)


def summary(scored: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """For every kind and for all: count, loss in nats per token, perplexity, and metrics as they are published."""
    table: dict[str, dict[str, float]] = {}
    for name, members in groups(scored):
        loss = nats_per_token([one.loss for one in members])
        row: dict[str, float] = {"items": len(members), "loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        for metric in members[0].scores:
            row[metric] = METRICS[metric].percent * sum(one.scores[metric] for one in members) / len(members)
        table[name] = row
    return table


def as_json(one: Scored) -> dict[str, Any]:
    """An item with everything that was found out about it."""
    item = one.item
    return {
        "id": item.id,
        "kind": item.kind,
        "prompt": item.prompt[0],
        "references": list(item.references),
        "answer": one.answer,
        "loss": asdict(one.loss),
        "scores": one.scores,
    }
