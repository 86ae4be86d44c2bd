"""Tokens are drawn as the probabilities say, by draws that nothing but seed, prompt and place decides."""

import math

import pytest
import torch

from megatron_nmm.errors import ConfigError
from megatron_nmm.generate.choose import Chooser, draw, drawn
from megatron_nmm.generate.contract import Decoding

SCORES = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
"""Probabilities that add up to 0.1, 0.3, 0.6, 1.0."""


@pytest.mark.parametrize(
    ("temperature", "top_p", "draw", "token"),
    [
        (1.0, 1.0, 0.0, 0),
        (1.0, 1.0, 0.11, 1),
        (1.0, 1.0, 0.59, 2),
        (1.0, 1.0, 0.999999, 3),
        # 0.4 + 0.3 reach 0.5: tokens 2 and 3 stay, with 3/7 and 4/7.
        (1.0, 0.5, 0.0, 2),
        (1.0, 0.5, 3 / 7 - 1e-6, 2),
        (1.0, 0.5, 3 / 7 + 1e-6, 3),
        # 0.4 alone reaches 0.4.
        (1.0, 0.4 - 1e-6, 0.0, 3),
        # At temperature 1/2 probabilities are squared: 1, 4, 9, 16 of 30.
        (0.5, 1.0, 5 / 30 - 1e-6, 1),
        (0.5, 1.0, 5 / 30 + 1e-6, 2),
    ],
)
def test_the_token_at_a_draw(temperature: float, top_p: float, draw: float, token: int) -> None:
    assert drawn(SCORES, temperature, top_p, torch.tensor([draw], dtype=torch.float64)).tolist() == [token]


def test_frequencies_follow_the_probabilities() -> None:
    draws = torch.tensor([draw(1, prompt, made) for prompt in range(40) for made in range(50)], dtype=torch.float64)
    found = torch.bincount(drawn(SCORES.expand(2000, -1), 1.0, 1.0, draws), minlength=4) / 2000
    for share, probability in zip(found.tolist(), (0.1, 0.2, 0.3, 0.4), strict=True):
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / 2000)


def test_tokens_that_score_alike_up_to_rounding_are_drawn_alike() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0 + 1e-6, 0.0], [1.0 + 1e-6, 1.0, 0.0]])
    for number in range(10):
        draws = torch.full((3,), number / 10 + 0.03, dtype=torch.float64)
        assert len(set(drawn(scores, 1.0, 0.95, draws).tolist())) == 1


def test_a_chooser_knows_prompts_by_number_and_has_no_memory() -> None:
    scores = torch.zeros(3, 1000)
    both = Chooser(Decoding(temperature=1.0, seed=5), [4, 9, 4])
    first, other, same = both(scores, 0).tolist()
    assert first == same != other
    assert both(scores, 0).tolist() == [first, other, same]
    assert both(scores, 1).tolist() != [first, other, same]
    assert Chooser(Decoding(), [0])(torch.tensor([[0.0, 3.0, 1.0]]), 0).tolist() == [1]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"new_tokens": 0}, "new_tokens 0 makes no answer"),
        ({"temperature": -1.0}, "temperature -1.0 is not usable"),
        ({"temperature": math.nan}, "temperature nan is not usable"),
        ({"top_p": 0.0}, "top_p 0.0 is no probability"),
        ({"top_p": 1.5}, "top_p 1.5 is no probability"),
        ({"stop": ("", "a")}, "a stop string is empty"),
    ],
)
def test_what_cannot_be_used_is_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Decoding(**values)  # type: ignore[arg-type]
