"""Counted operations of a training step equal those torch counts while it runs, term by term."""

import itertools
import math
import re
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.accounting import Flops, attended_pairs, step_flops
from megatron_nmm.models.attention import per_document
from megatron_nmm.models.attention.layout import PackedLayout
from megatron_nmm.models.build import build
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool

TOY = layouts.toy(RunConfig())
GROUPED = layouts.toy(RunConfig(model=ModelConfig(query_groups=8, tie_embeddings=True, image_mask="causal")))
ATTENTION = ("attention_scores", "attention_values")


def added_product(target: torch.Size, a: torch.Size, b: torch.Size, *_: Any, **__: Any) -> int:
    """Operations of target += a @ b, batched or not."""
    return 2 * math.prod(a) * b[-1]


IN_PLACE = {torch.ops.aten.addmm_: added_product, torch.ops.aten.baddbmm_: added_product}
"""Torch's counter knows these only under the names that make a new tensor."""
PRODUCT = re.compile(r"aten\..*(mm|matmul|linear|conv|attention)")


class Counted(NamedTuple):
    """What torch's counter saw in one forward and backward."""

    linear: int
    """Products of two matrices: every linear layer, the patch stem and the output layer."""
    attention: int
    """Batched products: attention alone has them."""
    missed: set[str]
    """Operators that look like products and were not counted."""


class Operators(TorchDispatchMode):
    """Notes the name of every operator that runs, in the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def _count(place: Place, run: RunConfig, batches: list[Batch]) -> Counted:
    with place.world(run.parallel) as world:
        model = build(run, world)
        with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter, Operators() as operators:
            forward_backward(model, batches, world)
    counts = {str(operator): n for operator, n in counter.get_flop_counts()["Global"].items()}
    attention = sum(n for name, n in counts.items() if "bmm" in name)
    missed = {name for name in operators.names - counts.keys() if PRODUCT.match(name)}
    return Counted(sum(counts.values()) - attention, attention, missed)


def computed_pairs(batch: Batch, run: RunConfig) -> int:
    """(query, key) pairs that blockwise attention computes: whole rectangles, hidden pairs and padding included."""
    plan = per_document.prepare(PackedLayout.of(batch, run.model.image_mask), torch.device("cpu"))
    return sum(
        bucket.documents * (block.rows.stop - block.rows.start) * block.keys
        for bucket in plan.buckets
        for block in bucket.blocks
    )


def needed_pairs(batch: Batch, run: RunConfig) -> int:
    """(query, key) pairs that attend."""
    pairs = 0
    for row, ends in enumerate(batch.document_starts.tolist()):
        lengths = [b - a for a, b in itertools.pairwise(ends)]
        blocks = [(a, b) for r, a, b in batch.image_blocks.tolist() if r == row]
        pairs += attended_pairs(lengths, blocks, run.model.image_mask)
    return pairs


def expected(run: RunConfig, batches: list[Batch], pairs: int) -> Flops:
    """The accounting's own count."""
    return step_flops(
        run.model,
        tokens=sum(b.tokens.numel() for b in batches),
        attended_pairs=pairs,
        patches=sum(len(b.patches) for b in batches),
        logit_tokens=sum(int(b.loss_weight.count_nonzero()) for b in batches),
    )


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("run", [TOY, GROUPED], ids=["full heads", "grouped, tied, causal"])
def test_every_product_of_a_packed_step_is_counted(run: RunConfig, images: bool, pool: WorkerPool) -> None:
    batches = synthetic.batches(run, 2, seed=5, images=images)
    counted = pool.run(1, _count, run, batches)[0]
    flops = expected(run, batches, sum(computed_pairs(b, run) for b in batches))
    attention = sum(flops.by_term[name] for name in ATTENTION)
    assert not counted.missed
    assert counted.attention == attention
    assert counted.linear == flops.total - attention
    assert flops.total > 1.5 * flops.forward


def one_image_a_row(run: RunConfig, length: int) -> Batch:
    """Rows that are one document of one image each, so that no computed pair is hidden; every label supervised."""
    rows, tokens = run.data.microbatch, torch.ones(run.data.microbatch, length, dtype=torch.int64)
    side = run.data.image_size // run.model.vision.patch
    blocks = torch.tensor([[row, 0, length] for row in range(rows)])
    return Batch(
        tokens=tokens,
        labels=tokens,
        loss_weight=tokens.float(),
        positions=torch.arange(length).repeat(rows, 1),
        document_starts=torch.tensor([[0, length]] * rows, dtype=torch.int32),
        modality=tokens,
        image_blocks=blocks,
        patches=torch.zeros(rows * length, run.model.vision.patch_values),
        grids=torch.tensor([[length // side, side]] * rows),
        patch_targets=torch.arange(rows * length),
        source=torch.zeros_like(tokens),
        kind=torch.ones_like(tokens),
        sample_ids=((),) * rows,
    )


def test_where_no_pair_is_hidden_the_total_is_exact(pool: WorkerPool) -> None:
    batch = one_image_a_row(TOY, 64)
    counted = pool.run(1, _count, TOY, [batch])[0]
    assert needed_pairs(batch, TOY) == computed_pairs(batch, TOY) == TOY.data.microbatch * 64**2
    assert counted.linear + counted.attention == expected(TOY, [batch], needed_pairs(batch, TOY)).total


def test_packed_rows_of_a_wider_model_are_within_a_percent(pool: WorkerPool) -> None:
    """Hidden pairs that are computed all the same cost little where documents are short against the width."""
    model = replace(TOY.model, layers=1, width=384, ffn=1024)
    run = replace(TOY, model=model, data=replace(TOY.data, sequence_length=192, microbatch=1))
    batches = synthetic.batches(run, 1, seed=5)
    counted = pool.run(1, _count, run, batches)[0]
    total = expected(run, batches, needed_pairs(batches[0], run)).total
    assert counted.linear + counted.attention == pytest.approx(total, rel=0.01)
