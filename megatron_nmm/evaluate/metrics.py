"""The table of scores: what each name means for a list of answers and their references."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_nmm.evaluate.anls import anls
from megatron_nmm.evaluate.cider import cider
from megatron_nmm.evaluate.matching import exact_match, relaxed_accuracy, vqa_accuracy
from megatron_nmm.generate.contract import Likelihood

Answers = Sequence[str]
References = Sequence[Sequence[str]]
"""At least one for each answer."""


@dataclass(frozen=True)
class Metric:
    """A score of answers."""

    score: Callable[[Answers, References], list[float]]
    """Of every answer, in one call for all of them."""
    percent: float
    """What makes the mean of them the figure that is published."""


def _each(score: Callable[[str, Sequence[str]], float]) -> Callable[[Answers, References], list[float]]:
    """A metric that looks at one answer at a time."""

    def scores(answers: Answers, references: References) -> list[float]:
        return [score(answer, of_one) for answer, of_one in zip(answers, references, strict=True)]

    return scores


METRICS: dict[str, Metric] = {
    "exact_match": Metric(_each(exact_match), 100.0),
    "vqa_accuracy": Metric(_each(vqa_accuracy), 100.0),
    "relaxed_accuracy": Metric(_each(relaxed_accuracy), 100.0),
    "anls": Metric(_each(anls), 100.0),
    "cider": Metric(cider, 100.0),
}
"""Name on the command line and in results -> score."""


def nats_per_token(likelihoods: Sequence[Likelihood]) -> float:
    """Mean over all tokens, not over texts: the loss that training reports; nan without a token."""
    tokens = sum(one.tokens for one in likelihoods)
    return sum(one.nats for one in likelihoods) / tokens if tokens else float("nan")
