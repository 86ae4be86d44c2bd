"""Every matrix product of a step, counted: an expert multiplies the rows of its own modality and no other."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.config.schema_model import ModalityExperts
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.build import build
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.models.experts.plain import native_batch

RUN = layouts.toy(RunConfig(model=ModelConfig(modality_experts="all", query_groups=8, special_embeddings=True)))
LEAVES = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
WAIT = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"}
"""Operators that wait for the device to learn a value or a size."""


class Products(TorchDispatchMode):
    """Operations of every product of two matrices, under the name of the parameter it reads, if any."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.of: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = str(func.overloadpacket).removeprefix("aten.")
        self.waits.update([operator] if operator in WAIT else [])
        if operator in ("mm", "addmm", "addmm_"):
            a, b = args[-2:]
            self.of[self.names.get(b.data_ptr(), "none")] += 2 * math.prod(a.shape) * b.shape[-1]
        return func(*args, **(kwargs or {}))


def _count(place: Place, run: RunConfig, batch: Batch) -> tuple[Counter[str], Counter[str], dict[str, int]]:
    """(operations by parameter, waits, sizes of parameters) of one forward and backward."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        parameters = dict(model.module.named_parameters())  # type: ignore[union-attr]
        names = {p.data_ptr(): name for name, p in parameters.items()}
        with Products(names) as products:
            forward_backward(model, [batch], world)
    return products.of, products.waits, {name: p.numel() for name, p in parameters.items()}


@pytest.mark.parametrize("images", [True, False], ids=["text and images", "text alone"])
def test_each_expert_multiplies_the_rows_of_its_modality(images: bool, pool: WorkerPool) -> None:
    batch = native_batch(RUN, 1) if images else synthetic.batches(RUN, 1, seed=1, images=False)[0]
    text, visual = len(batch.text_index), len(batch.visual_index)
    assert text > 0 and (visual > 20) == images
    operations, _, sizes = pool.run(1, _count, RUN, batch)[0]
    for layer in range(RUN.model.layers):
        for leaf in LEAVES:
            name = f"decoder.layers.{layer}.{leaf}.weight"
            twin = name.replace("linear", "visual.linear")
            # Once forward and once for the gradient of the rows; one row of zeros where a modality is absent.
            assert operations[name] == 4 * text * sizes[name]
            assert operations[twin] == 4 * max(visual, 1) * sizes[twin]


@pytest.mark.parametrize("experts", ["ffn", "all"])
def test_experts_cost_what_the_dense_model_costs_and_wait_no_more(experts: ModalityExperts, pool: WorkerPool) -> None:
    """Products that give weight gradients read no parameter; they are in the total."""
    batch = native_batch(RUN, 1)
    of_dense, dense_waits, _ = pool.run(
        1, _count, replace(RUN, model=replace(RUN.model, modality_experts="none")), batch
    )[0]
    run = replace(RUN, model=replace(RUN.model, modality_experts=experts))
    operations, waits, _ = pool.run(1, _count, run, batch)[0]
    assert operations.total() == of_dense.total()
    assert waits == dense_waits
