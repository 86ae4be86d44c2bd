"""Answers of a model in the form that training has it, in any layout.

Keys and values are kept between tokens (models/attention/cached.py), so a row of n tokens and m new ones costs n + m
positions. Rows that context ranks share have no cache: there every new token runs the whole rows again, which shares
every line of the forward pass with training; ``cached=False`` asks for the same anywhere. Shapes: B rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from megatron_nmm.config import RunConfig
from megatron_nmm.config.recipes import row_multiple
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.prompt import Prompt, load_prompts, require_images
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.generate.choose import Chooser
from megatron_nmm.generate.contract import Answer, Decoding, Likelihood, Listener
from megatron_nmm.generate.growing import Growing
from megatron_nmm.generate.likelihood import ask
from megatron_nmm.generate.rows import next_positions, rows_with_room
from megatron_nmm.generate.scores import read_scores
from megatron_nmm.models.attention.cached import KeyValueCache
from megatron_nmm.parallel.world import World

ROWS = 32
"""Prompts that run together unless told otherwise; more need more memory for their keys and values."""


@dataclass(frozen=True)
class TrainingModel:
    """An AnsweringModel. Data ranks share the prompts; those that share experts answer all of them together."""

    model: torch.nn.Module
    """Inside megatron-core's DistributedDataParallel."""
    run: RunConfig
    tokenizer: Tokenizer
    world: World
    rows: int = ROWS
    cached: bool = True
    """Whether keys and values are kept, where that can be."""

    def answers(self, prompts: Sequence[Prompt], decoding: Decoding, listen: Listener | None = None) -> list[Answer]:
        """As AnsweringModel says."""

        def some(numbers: Sequence[int]) -> list[Answer]:
            return self._answers([prompts[number] for number in numbers], numbers, decoding, listen)

        require_images(prompts)
        return self._shared(len(prompts), some)

    def likelihoods(self, pairs: Sequence[tuple[Prompt, str]], *, end: bool = False) -> list[Likelihood]:
        """As AnsweringModel says."""

        def some(numbers: Sequence[int]) -> list[Likelihood]:
            return self._likelihoods([pairs[number] for number in numbers], end)

        require_images([prompt for prompt, _ in pairs])
        return self._shared(len(pairs), some)

    def _shared(self, count: int, some: Callable[[Sequence[int]], list[Any]]) -> list[Any]:
        """``some`` of the items 0 to ``count`` - 1 at a time, each on one data rank, in order on all. Collective."""
        # Ranks that share experts must take the same steps, so there nobody goes ahead.
        shares = self.world.data_size if self.run.parallel.expert == 1 else 1
        mine = range(self.world.data_rank % shares, count, shares)
        training = self.model.training
        self.model.eval()
        found: list[Any] = []
        for first in range(0, len(mine), self.rows):
            found += some(mine[first : first + self.rows])
        self.model.train(training)
        parts: list[list[Any]] = [[] for _ in range(self.world.data_size)]
        with self.world.waiting("what the other data ranks found"):
            dist.all_gather_object(parts, found, group=self.world.groups.dp)
        return [parts[number % shares][number // shares] for number in range(count)]

    def _answers(
        self, prompts: Sequence[Prompt], numbers: Sequence[int], decoding: Decoding, listen: Listener | None
    ) -> list[Answer]:
        """Answers to prompts that run together as the rows of one batch."""
        growing = [
            Growing(self.tokenizer.decode, self.tokenizer.eos, decoding, listen and partial(listen, number))
            for number in numbers
        ]
        loaded = load_prompts(self.run, self.tokenizer, prompts, self.run.data.sequence_length)
        # Rows that nobody asked for fill the batch up to what sequence parallelism and 8-bit products can divide.
        idle = -len(loaded) % self._row_multiple
        loaded += loaded[-1:] * idle
        chooser = Chooser(decoding, [*numbers, *[numbers[-1]] * idle])
        steps, room = (self._cached_tokens, 0) if self._keeps else (self._plain_tokens, decoding.new_tokens)
        for chosen_B in steps(*rows_with_room(self.run, self.tokenizer, loaded, room), chooser):
            for answer, token in zip(growing, chosen_B.tolist(), strict=False):
                answer.add(token)
            if all(answer.ended for answer in growing):
                break
        return [answer.answer() for answer in growing]

    @property
    def _keeps(self) -> bool:
        return self.cached and self.run.parallel.context == 1

    @property
    def _row_multiple(self) -> int:
        """What the number of rows, all that a cached pass has, must be a multiple of."""
        parallel = self.run.parallel
        return row_multiple(self.run.precision) * (parallel.tensor if parallel.sequence else 1) if self._keeps else 1

    def _cached_tokens(self, prompts: Batch, lengths_B: torch.Tensor, chooser: Chooser) -> Iterator[torch.Tensor]:
        """[B] tokens of every row, step by step: the prompts in one pass, then one position a pass."""
        cache = KeyValueCache(prompts.sequence_length + chooser.decoding.new_tokens)
        batch, at = prompts, torch.arange(prompts.rows) * prompts.sequence_length + lengths_B - 1
        for made in range(chooser.decoding.new_tokens):
            chosen_B = self._next(batch, at, chooser, made, cache)
            yield chosen_B
            batch, at = next_positions(prompts, chosen_B, lengths_B + made), torch.arange(prompts.rows)

    def _plain_tokens(self, batch: Batch, lengths_B: torch.Tensor, chooser: Chooser) -> Iterator[torch.Tensor]:
        """The same by one pass over whole rows, with room for the answers, for every token."""
        rows = torch.arange(batch.rows)
        for made in range(chooser.decoding.new_tokens):
            at = rows * batch.sequence_length + lengths_B + made - 1
            chosen_B = self._next(batch, at, chooser, made, None)
            yield chosen_B
            batch.tokens[rows, lengths_B + made] = chosen_B

    def _next(
        self, batch: Batch, at: torch.Tensor, chooser: Chooser, made: int, cache: KeyValueCache | None
    ) -> torch.Tensor:
        def read(scores_BV: torch.Tensor) -> torch.Tensor:
            # The embedding table may have more rows than the tokenizer has pieces.
            return chooser(scores_BV[:, : self.tokenizer.size], made)

        return read_scores(self.model, batch, at, read, at, self.world, cache)

    def _likelihoods(self, pairs: Sequence[tuple[Prompt, str]], end: bool) -> list[Likelihood]:
        """Of pairs that run together as the rows of one batch."""
        asked = ask(self.run, self.tokenizer, pairs, end)
        like = torch.zeros(len(asked.labels), 2, dtype=torch.float64)
        return asked.found(read_scores(self.model, asked.batch, asked.at, asked.read, like, self.world))
