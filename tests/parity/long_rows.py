"""Rows of a few long documents, and what a rank keeps of a layer's pass over them for the backward pass."""

from collections import Counter
from dataclasses import replace

import numpy as np
import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.collate import collate
from megatron_nmm.data.load import Loaded, run_rule
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.verify import compare, layouts
from megatron_nmm.verify.synthetic import FIRST_TEXT_TOKEN, SPECIAL
from megatron_nmm.verify.workers import Place

IMAGE_SIDE = 16
"""Patches a side: an image is a block of 256 tokens."""


def long_run(length: int) -> RunConfig:
    """A narrow early-fusion model of two layers for rows of ``length`` tokens."""
    run = layouts.toy(RunConfig())
    model = replace(run.model, layers=2, width=32, heads=2, ffn=64, vocabulary=64)
    data = replace(
        run.data,
        sequence_length=length,
        microbatch=1,
        global_batch=1,
        image_size=IMAGE_SIDE * model.vision.patch,
    )
    return replace(run, model=model, data=data)


def long_row(run: RunConfig, documents: tuple[int, ...]) -> Batch:
    """One row of documents of these lengths, an image in the middle of each, the rest padding."""
    generator = np.random.default_rng(7)
    rule = run_rule(run)
    views = rule.views(1, 1)
    image = np.array(rule.image_ids(views, SPECIAL))
    values = run.model.vision.patch_values
    row = []
    for number, length in enumerate(documents):
        text = generator.integers(FIRST_TEXT_TOKEN, run.model.vocabulary, length - len(image))
        tokens = np.insert(text, len(text) // 2, image).astype(np.int32)
        pixels = generator.standard_normal((views[0].grid.patches, values)).astype(np.float32)
        row.append(Loaded(f"long-{number}", 1, 0, tokens, (pixels,), (views[0].grid,)))
    return collate([row], run.data.sequence_length, SPECIAL, values, run.model.vision.shuffle)


def step_and_kept(
    place: Place, run: RunConfig, state: compare.State, documents: tuple[int, ...]
) -> tuple[compare.StepResult | None, int]:
    """A step over one long row, and the most bytes this rank keeps of it for the backward pass."""
    with place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        full_state.load(model, state)
        kept = Kept(model)
        with torch.autograd.graph.saved_tensors_hooks(kept.hold, lambda held: held.tensor):
            sums = forward_backward(model, [long_row(run, documents)], world)
        gradients = full_state.gather(model, world, full_state.gradient)
    return (None if gradients is None else compare.StepResult(sums.mean, gradients)), kept.peak


class Kept:
    """Bytes that the graph holds for the backward pass, each storage once and weights not at all."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._holders: Counter[int] = Counter()
        self._bytes = 0
        self.peak = 0

    def hold(self, tensor: torch.Tensor) -> "_Held":
        """What the graph keeps in place of ``tensor``."""
        return _Held(tensor, self)

    def count(self, tensor: torch.Tensor, by: int) -> None:
        """One holder of the tensor's storage more (``by`` 1) or less (-1)."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._weights:
            return
        before = self._holders[storage.data_ptr()]
        self._holders[storage.data_ptr()] += by
        if 0 in (before, before + by):
            self._bytes += by * storage.nbytes()
            self.peak = max(self.peak, self._bytes)


class _Held:
    """A saved tensor, counted as long as the graph holds it."""

    def __init__(self, tensor: torch.Tensor, kept: Kept) -> None:
        self.tensor, self._kept = tensor, kept
        kept.count(tensor, 1)

    def __del__(self) -> None:
        self._kept.count(self.tensor, -1)
