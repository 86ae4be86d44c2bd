"""Prompts with given continuations as the rows of a batch, and what the scores say of them.

Shapes: N tokens of all continuations, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.load import Loaded
from megatron_nmm.data.prompt import Prompt, load_prompts
from megatron_nmm.data.raw.record import segments
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.generate.contract import Likelihood
from megatron_nmm.generate.rows import rows_with_room


@dataclass(frozen=True)
class Asked:
    """Continuations in packed rows."""

    batch: Batch
    at: torch.Tensor
    """[N] flat positions from which their tokens are predicted."""
    labels: torch.Tensor
    """[N] their tokens."""
    ends: tuple[int, ...]
    """Where each continuation ends among the N, after a 0."""

    def read(self, scores_NV: torch.Tensor) -> torch.Tensor:
        """[N, 2] fp64 on the CPU: minus the log probability of each token, and 1 where it is the likeliest."""
        labels = self.labels.to(scores_NV.device)
        nats = torch.nn.functional.cross_entropy(scores_NV.float(), labels, reduction="none")
        return torch.stack([nats.double(), (scores_NV.argmax(-1) == labels).double()], dim=1).cpu()

    def found(self, read_N2: torch.Tensor) -> list[Likelihood]:
        """One likelihood per continuation from what ``read`` gave."""
        parts = [read_N2[first:last] for first, last in pairwise(self.ends)]
        return [Likelihood(float(part[:, 0].sum()), len(part), bool(part[:, 1].all())) for part in parts]


def ask(run: RunConfig, tokenizer: Tokenizer, pairs: Sequence[tuple[Prompt, str]], end: bool) -> Asked:
    """One row per (prompt, continuation); with ``end`` the end of sequence belongs to the continuation.

    The two are encoded as one text, as in training. A token that reaches from the prompt into the continuation counts
    as one of the continuation; of a continuation behind nothing at all, the first token cannot be predicted.
    """
    whole = [(text + continuation, images) for (text, images), continuation in pairs]
    loaded = load_prompts(run, tokenizer, whole, run.data.sequence_length, end)
    batch, _ = rows_with_room(run, tokenizer, loaded, 0)
    at, labels, ends = [], [], [0]
    for row, (sample, ((text, _), continuation)) in enumerate(zip(loaded, pairs, strict=True)):
        first = max(_first(tokenizer, sample, text, continuation, end), 1)
        at.append(row * batch.sequence_length + torch.arange(first, len(sample.tokens)) - 1)
        labels.append(torch.from_numpy(sample.tokens[first:]).long())
        ends.append(ends[-1] + len(sample.tokens) - first)
    return Asked(batch, torch.cat(at), torch.cat(labels), tuple(ends))


def _first(tokenizer: Tokenizer, sample: Loaded, text: str, continuation: str, end: bool) -> int:
    """Place of the first token that differs from those of ``text`` alone; only the text behind images is compared."""
    alone = tokenizer.encode(segments(text)[-1])
    joined = tokenizer.encode(segments(text + continuation)[-1])
    common = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(alone, joined, strict=False)))
    return len(sample.tokens) - int(end) - len(joined) + common
