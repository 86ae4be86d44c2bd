"""Greedy answers of a model in memory, for checks that want nothing but the texts."""

from collections.abc import Sequence

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.prompt import Prompt
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.generate.contract import Decoding
from megatron_nmm.generate.training import TrainingModel
from megatron_nmm.parallel.world import World


def answer(
    model: torch.nn.Module,
    run: RunConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    world: World,
    new_tokens: int,
) -> list[str]:
    """The text that ``model`` puts after each prompt, up to its end of sequence or ``new_tokens`` tokens.

    ``prompts`` are (text with ``<image>`` markers, encoded images) and equal on every rank; so is the result.
    Collective; raises DataError for a prompt or image that cannot be used.
    """
    found = TrainingModel(model, run, tokenizer, world).answers(prompts, Decoding(new_tokens))
    return [one.text for one in found]
