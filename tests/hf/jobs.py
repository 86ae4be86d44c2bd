"""What the training model says, in one process: the reference of every number here."""

from collections.abc import Sequence
from typing import Any

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.prompt import Prompt, prompt_batch
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.generate.answer import answer
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.verify.workers import Place

NEW_TOKENS = 6
Said = tuple[torch.Tensor, list[float], list[list[int]]]


def said(place: Place, run: RunConfig, state: Any, prompts: Sequence[Prompt]) -> Said:
    """([B, S, V] scores of the prompts as rows, each prompt's mean loss, nan where none of it is supervised, and the
    ids of its greedy answer)."""
    tokenizer = Tokenizer(run.data.tokenizer)
    with place.world(run.parallel) as world:
        wrapped = build(run, world)
        full_state.load(wrapped, state)
        wrapped.eval()
        model: Any = wrapped.module
        with torch.no_grad():
            scores = model(prompt_batch(run, tokenizer, prompts), logits=True)
            losses = [float(model(prompt_batch(run, tokenizer, [prompt])).mean()) for prompt in prompts]
        tokenizer.decode = lambda ids: " ".join(map(str, ids))  # type: ignore[method-assign]
        answers = answer(wrapped, run, tokenizer, prompts, world, NEW_TOKENS)
    return scores, losses, [[int(number) for number in text.split()] for text in answers]
