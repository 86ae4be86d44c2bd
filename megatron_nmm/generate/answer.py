"""Greedy answers to prompts with images, from a model in memory, in any layout.

A plain loop: every new token runs the whole rows again, without a key/value cache. It shares every line of the forward
pass with training, so it shows what was trained; a row of n tokens and m new ones costs m passes over n + m positions,
which suits checks and short answers, not serving.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.prompt import Prompt, prompt_batch
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.generate.next_tokens import next_tokens
from megatron_nmm.parallel.world import World

ROWS = 32
"""Prompts that run together; more would only cost memory for their scores."""


def answer(
    model: torch.nn.Module,
    run: RunConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    world: World,
    new_tokens: int,
) -> list[str]:
    """The text that ``model`` puts after each prompt, up to its end of sequence or ``new_tokens`` tokens.

    ``prompts`` are (text with ``<image>`` markers, encoded images) and equal on every rank; so is the result. Data
    ranks share the work. Collective; raises DataError for a prompt or image that cannot be used.
    """
    training = model.training
    model.eval()
    mine = prompts[world.data_rank :: world.data_size]
    texts: list[str] = []
    for first in range(0, len(mine), ROWS):
        texts += _answer_rows(model, run, tokenizer, mine[first : first + ROWS], world, new_tokens)
    model.train(training)
    return _interleave(_from_all_data_ranks(texts, world), len(prompts))


def _answer_rows(
    model: torch.nn.Module,
    run: RunConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    world: World,
    new_tokens: int,
) -> list[str]:
    """Answers to prompts that run together as the rows of one batch."""
    batch, lengths_B = _rows_with_room(run, tokenizer, prompts, new_tokens)
    rows = torch.arange(batch.rows)
    ended_B = torch.zeros(batch.rows, dtype=torch.bool)
    answers: list[list[int]] = [[] for _ in prompts]
    for made in range(new_tokens):
        chosen_B = next_tokens(model, batch, lengths_B + made - 1, tokenizer.size, world)
        ended_B |= chosen_B == tokenizer.eos
        for row in (~ended_B).nonzero().squeeze(1).tolist():
            answers[row].append(int(chosen_B[row]))
        if ended_B.all():
            break
        batch.tokens[rows, lengths_B + made] = chosen_B
    return [tokenizer.decode(ids) for ids in answers]


def _rows_with_room(
    run: RunConfig, tokenizer: Tokenizer, prompts: Sequence[Prompt], new_tokens: int
) -> tuple[Batch, torch.Tensor]:
    """One prompt a row, with room for ``new_tokens`` behind the longest, and the [B] lengths of the prompts.

    Prompt, answer and padding of a row form one document: text is causal, so what stands behind a token, padding or a
    token still to come, cannot change it.
    """
    measured = prompt_batch(run, tokenizer, prompts, run.data.sequence_length)
    lengths_B = measured.document_starts[:, 1].long()
    # Context and sequence parallelism cut rows into this many pieces.
    split = run.parallel.chunks * run.parallel.tensor
    length = -(-(int(lengths_B.max()) + new_tokens) // split) * split
    batch = prompt_batch(run, tokenizer, prompts, length)
    positions = torch.arange(length).expand(batch.rows, -1).contiguous()
    starts = torch.tensor([[0, length]], dtype=torch.int32).repeat(batch.rows, 1)
    # The room counts as filled: what is written there is no padding to the routers of sparse experts.
    filled = torch.full((batch.rows,), length)
    return replace(batch, positions=positions, document_starts=starts, filled=filled), lengths_B


def _from_all_data_ranks(texts: list[str], world: World) -> list[list[str]]:
    parts: list[list[str]] = [[] for _ in range(world.data_size)]
    with world.waiting("the answers of the other data ranks"):
        dist.all_gather_object(parts, texts, group=world.groups.dp)
    return parts


def _interleave(parts: list[list[str]], count: int) -> list[str]:
    """Undo the split: prompt i went to data rank i % size as its item i // size."""
    return [parts[number % len(parts)][number // len(parts)] for number in range(count)]
