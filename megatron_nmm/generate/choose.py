"""The next token of every row from its scores: the likeliest, or drawn from a seed that no layout can change.

Shapes: B rows, V vocabulary.
"""

import random
from collections.abc import Sequence

import torch

from megatron_nmm.generate.contract import Decoding


class Chooser:
    """Chooses as ``decoding`` says for the prompts ``numbers``, one a row."""

    def __init__(self, decoding: Decoding, numbers: Sequence[int]) -> None:
        self.decoding, self.numbers = decoding, numbers

    def __call__(self, scores_BV: torch.Tensor, made: int) -> torch.Tensor:
        """[B] int64 on the CPU: the token that follows ``made`` tokens of each answer."""
        if self.decoding.temperature == 0:
            return scores_BV.argmax(-1).cpu()
        draws = torch.tensor([draw(self.decoding.seed, number, made) for number in self.numbers], dtype=torch.float64)
        return drawn(scores_BV, self.decoding.temperature, self.decoding.top_p, draws)


def draw(seed: int, prompt: int, made: int) -> float:
    """A number in [0, 1) for one token. It has no state, so it does not matter who asks, when and how often."""
    return random.Random(f"{seed}/{prompt}/{made}").random()


def drawn(scores_BV: torch.Tensor, temperature: float, top_p: float, draws_B: torch.Tensor) -> torch.Tensor:
    """[B] int64 on the CPU: the token at which each row's cumulative probability passes its draw.

    Probabilities are summed in the order of ids, not of size: two tokens that score alike up to rounding must not
    change places between layouts. Nucleus sampling (arXiv 1904.09751, section 3.1) keeps the smallest set of the
    likeliest tokens that reaches ``top_p``.
    """
    probability = torch.softmax(scores_BV.double() / temperature, -1)
    if top_p < 1:
        ordered, token = torch.sort(probability, dim=-1, descending=True, stable=True)
        needless = ordered.cumsum(-1) - ordered >= top_p
        probability = probability.masked_fill(needless.gather(-1, token.argsort(-1)), 0)
    total = probability.cumsum(-1)
    target = draws_B.to(total.device)[:, None] * total[:, -1:]
    return torch.searchsorted(total, target, right=True).squeeze(1).clamp(max=scores_BV.shape[1] - 1).cpu()
