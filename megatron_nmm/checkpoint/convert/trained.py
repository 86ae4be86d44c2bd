"""The training model of a checkpoint in one process, for comparison with its export: scores and greedy tokens, fp32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from megatron_nmm.checkpoint.convert.probes import Probe, batch_of
from megatron_nmm.checkpoint.convert.to_hf import image_tokens
from megatron_nmm.checkpoint.resume import load_weights
from megatron_nmm.config import ParallelConfig, PrecisionConfig, RunConfig
from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.models.build import build
from megatron_nmm.parallel.world import World


class Trained:
    """A model that answers probes, every token by a whole pass."""

    def __init__(self, model: Any, run: RunConfig, special: Mapping[str, int], known: int) -> None:
        """Candidates for the next token are ids below ``known`` (the other rows of the vocabulary are padding) that are
        no image's."""
        self._model, self._run, self._special, self._known = model, run, special, known

    def scores(self, probe: Probe) -> torch.Tensor:
        """[S, V] of every position, the padding of the vocabulary included."""
        return self._scores(probe, probe.tokens)

    def greedy(self, probe: Probe, count: int) -> list[int]:
        """The ``count`` likeliest tokens that follow."""
        tokens = probe.tokens
        for _ in range(count):
            last = self._scores(probe, tokens)[-1, : self._known].clone()
            last[[token for token in image_tokens(self._special) if token >= 0]] = -torch.inf
            best = last.argmax()
            tokens = torch.cat([tokens, best[None]])
        found: list[int] = tokens[len(probe.tokens) :].tolist()
        return found

    def _scores(self, probe: Probe, tokens: torch.Tensor) -> torch.Tensor:
        batch = batch_of(self._run, self._special, probe, tokens)
        with torch.no_grad():
            found: torch.Tensor = self._model.module(batch, logits=True)[0]
        return found


@contextmanager
def trained(
    place: Path, run: RunConfig, dtype: torch.dtype | None, special: Mapping[str, int], known: int
) -> Iterator[Trained]:
    """The model of checkpoint ``place``, computing in fp32 with weights rounded to ``dtype``; None = as stored.

    ``special`` and ``known`` are the tokenizer's special tokens and size.
    """
    run = replace(run, parallel=ParallelConfig(), precision=PrecisionConfig(dtype="fp32"))
    world = World.start(run.parallel, CpuDevice(), run.seed)
    try:
        model: Any = build(run, world)
        load_weights(place, model, world, lambda line: None)
        with torch.no_grad():
            for parameter in model.parameters() if dtype is not None else ():
                parameter.copy_(parameter.to(dtype))
        model.eval()
        yield Trained(model, run, special, known)
    finally:
        world.close()
