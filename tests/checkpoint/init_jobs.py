"""Jobs for worker processes: a model with the first weights its run asks for."""

from typing import Any

import torch

from megatron_nmm.checkpoint.hf_folder import HFFolder
from megatron_nmm.checkpoint.initialise import initialise
from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.errors import CheckpointError
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.verify.workers import Place

State = dict[str, torch.Tensor]


def initialised(place: Place, run: RunConfig, batch: Batch | None = None) -> tuple[State | None, Any, list[str]]:
    """(all weights on rank 0, scores of ``batch`` [B, S, V] if given, the lines said)."""
    said: list[str] = []
    with place.world(run.parallel, run.seed) as world:
        model: Any = build(run, world)
        initialise(run, model, world, said.append)
        with torch.no_grad():
            scores = None if batch is None else model.module(batch, logits=True)
        return full_state.gather(model, world), scores, said


def refused(place: Place, run: RunConfig) -> tuple[str, bool]:
    """The error's message, and whether every weight is as it was drawn."""
    with place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        try:
            initialise(run, model, world, lambda line: None)
        except CheckpointError as error:
            same = zip(before, model.parameters(), strict=True)
            return str(error), all(torch.equal(old, new) for old, new in same)
    return "loaded", False


def read_by_rank(place: Place, run: RunConfig) -> list[str]:
    """Names of the tensors this rank read, in order."""
    real, names = HFFolder.read, list[str]()

    def read(self: HFFolder, name: str) -> torch.Tensor:
        names.append(name)
        return real(self, name)

    HFFolder.read = read  # type: ignore[method-assign]
    try:
        initialised(place, run)
    finally:
        HFFolder.read = real  # type: ignore[method-assign]
    return names


def drawn(place: Place, run: RunConfig) -> State | None:
    """All weights as they are drawn, on rank 0."""
    with place.world(run.parallel, run.seed) as world:
        return full_state.gather(build(run, world), world)
