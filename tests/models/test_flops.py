"""Counted operations of a training step equal those torch counts while it runs, term by term."""

import math
import re
from dataclasses import astuple, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from megatron_nmm.config import DataConfig, ModelConfig, OptimConfig, RatesConfig, RunConfig, SparseConfig, VisionConfig
from megatron_nmm.config.presets import late_fusion, navil, sparse_early_fusion
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.collate import collate
from megatron_nmm.data.load import Loaded
from megatron_nmm.data.rule import Grid
from megatron_nmm.models.accounting import Flops, Work, step_flops
from megatron_nmm.models.attention import per_document
from megatron_nmm.models.attention.layout import PackedLayout
from megatron_nmm.models.build import build
from megatron_nmm.models.vision.share import shares
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.train.meter import batch_flops, work
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool

TOY = layouts.toy(RunConfig())
GROUPED = layouts.toy(RunConfig(model=ModelConfig(query_groups=8, tie_embeddings=True, image_mask="causal")))
NATIVE = DataConfig(image_rule="native", multi_scale=True, augment=False)
LATE = layouts.toy(RunConfig(model=ModelConfig(vision=VisionConfig(depth=24))))
AWARE = layouts.toy(RunConfig(model=ModelConfig(modality_experts="ffn")))
NAVIL = layouts.toy(RunConfig(model=navil("2b"), data=NATIVE))
WINDOWS = layouts.toy(
    RunConfig(model=late_fusion("0.289b"), data=NATIVE),
)
WINDOWS = replace(
    WINDOWS,
    model=replace(
        WINDOWS.model, vision=replace(WINDOWS.model.vision, window=4, full_layers=(1,), connector="mlp", bias=True)
    ),
)
CLASS_TOKEN = VisionConfig(
    depth=24, mlp="gelu", bias=True, qkv_bias=True, norm="layer", positions="table", table_side=32, class_token=True
)
INTERN_VIT = layouts.toy(RunConfig(model=ModelConfig(vision=replace(CLASS_TOKEN, connector="pixel_shuffle"))))
"""Its square images are as large as the table, which is not interpolated."""
BY_ROW = SparseConfig(experts=8, top_k=2, dense_layers=(0,), score="sigmoid", balance_over="row", z_loss=1e-3)
SPARSE = {
    "top-1": layouts.toy(RunConfig(model=sparse_early_fusion("0.275b"))),
    "top-2": layouts.toy(RunConfig(model=sparse_early_fusion("0.275b", "8e-top2"))),
    "fine-grained": layouts.toy(RunConfig(model=sparse_early_fusion("0.275b", "8e-top2-fine"))),
    "a dense layer, balance by row": layouts.toy(RunConfig(model=ModelConfig(sparse=BY_ROW))),
    "late, normalised": layouts.toy(
        RunConfig(model=replace(LATE.model, sparse=SparseConfig(experts=8, normalise=True)))
    ),
}
FAMILY = {
    "early": TOY,
    "grouped, tied, causal": GROUPED,
    "late": LATE,
    "modality-aware": AWARE,
    "NaViL": NAVIL,
    "late with windows": WINDOWS,
    "class token": INTERN_VIT,
    "class token of single patches": layouts.toy(RunConfig(model=ModelConfig(vision=CLASS_TOKEN))),
    **SPARSE,
}
TEXT_FROZEN = RatesConfig(attention=0, ffn=0, norms=0, embeddings=0, output=0)


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


def computed_pairs(layout: PackedLayout) -> int:
    """(query, key) pairs that blockwise attention computes: whole rectangles, hidden pairs and padding included."""
    plan = per_document.prepare(layout, torch.device("cpu"))
    return sum(
        bucket.documents * (block.rows.stop - block.rows.start) * block.keys
        for bucket in plan.buckets
        for block in bucket.blocks
    )


def computed(batch: Batch, run: RunConfig) -> Work:
    """What the CPU's kernels compute for ``batch``: attention with hidden pairs and padding, all else as needed."""
    share = shares([(r, c) for r, c in batch.grids.tolist()], run.model.vision, 1, 0, 1).mine
    return replace(
        work(batch, run.model),
        attended_pairs=computed_pairs(PackedLayout.of(batch, run.model.image_mask)),
        view_pairs=computed_pairs(PackedLayout.full(share.views)),
        window_pairs=computed_pairs(PackedLayout.full(share.windows)),
    )


def added(works: list[Work]) -> Work:
    """The work of several batches."""
    return Work(*(sum(counts) for counts in zip(*map(astuple, works), strict=True)))


def balance_sums(run: RunConfig, batches: list[Batch], still: int = 0) -> int:
    """Operations of what the tables leave out: sums over tokens of choices, of scores, and the gradient of these, which
    ``still`` routers do not take."""
    model = run.model
    units = run.data.microbatch if model.sparse.balance_over == "row" else 1
    positions = sum(batch.tokens.numel() for batch in batches)
    return (3 * len(model.sparse_layers) - still) * 2 * units * positions * model.sparse.experts


def attention_of(flops: Flops) -> int:
    """Operations of products of two activations."""
    return sum(n for name, n in flops.by_term.items() if "attention" in name)


@pytest.mark.parametrize("name", FAMILY)
def test_every_product_of_a_packed_step_is_counted(name: str, pool: WorkerPool) -> None:
    run = FAMILY[name]
    batches = synthetic.batches(run, 2, seed=5)
    counted = pool.run(1, _count, run, batches)[0]
    flops = step_flops(run.model, added([computed(batch, run) for batch in batches]))
    assert not counted.missed
    assert counted.attention == attention_of(flops)
    assert counted.linear == flops.total - attention_of(flops) + balance_sums(run, batches)
    assert flops.total > 1.5 * flops.forward
    if run.model.modality_experts != "none":
        assert 0 < flops.by_term["visual.linear_fc1"] < flops.by_term["linear_fc1"]
    if run.model.sparse_layers:
        assert sum(int(batch.filled.sum()) for batch in batches) < sum(batch.tokens.numel() for batch in batches)


@pytest.mark.parametrize("name", ["early", "grouped, tied, causal"])
def test_text_alone_is_counted_exactly(name: str, pool: WorkerPool) -> None:
    run = FAMILY[name]
    batches = synthetic.batches(run, 2, seed=5, images=False)
    counted = pool.run(1, _count, run, batches)[0]
    flops = step_flops(run.model, added([computed(batch, run) for batch in batches]))
    assert (counted.linear + counted.attention, counted.attention) == (flops.total, attention_of(flops))


@pytest.mark.parametrize("name", ["late", "NaViL", "late with windows"])
def test_what_stands_in_for_absent_images_is_one_token(name: str, pool: WorkerPool) -> None:
    """Of text alone the encoder sees the patches of one padding token, the visual experts one row."""
    run = FAMILY[name]
    [batch] = synthetic.batches(run, 1, seed=5, images=False)
    counted = pool.run(1, _count, run, [batch])[0]
    experts = int(run.model.modality_experts == "all")
    text = computed(batch, run)
    standing_in = replace(
        text, patches=run.model.vision.shuffle**2, tokens=text.tokens + experts, visual_tokens=experts
    )
    flops = step_flops(run.model, standing_in)
    assert (counted.linear, counted.attention) == (flops.total - attention_of(flops), attention_of(flops))
    assert batch_flops(run.model, [batch]) < flops.total


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("NaViL", TEXT_FROZEN),
        ("NaViL", replace(TEXT_FROZEN, attention=1)),
        ("late", RatesConfig(vision=0)),
        ("late", RatesConfig(vision=0, connector=0, embeddings=0.1)),
        ("early", RatesConfig(vision=0, ffn=0)),
    ],
    ids=["NaViL S1.1", "NaViL S1.2", "frozen encoder", "frozen encoder and connector", "frozen stem and MLP"],
)
def test_frozen_parts_are_counted_without_the_gradients_they_save(
    name: str, rates: RatesConfig, pool: WorkerPool
) -> None:
    run = replace(FAMILY[name], optim=OptimConfig(rates=rates))
    batches = synthetic.batches(run, 1, seed=5)
    counted = pool.run(1, _count, run, batches)[0]
    flops = step_flops(run.model, computed(batches[0], run), rates)
    assert (counted.linear, counted.attention) == (flops.total - attention_of(flops), attention_of(flops))
    assert flops.total < step_flops(run.model, computed(batches[0], run)).total


@pytest.mark.parametrize(
    ("rates", "extra", "still"),
    [
        (RatesConfig(ffn=0), 0, 0),
        (RatesConfig(router=0), 4, 0),
        (RatesConfig(attention=0, norms=0, ffn=0, output=0, vision=0, embeddings=0), 1, 0),
        (RatesConfig(attention=0, norms=0, router=0, output=0, vision=0, embeddings=0), 3, 1),
    ],
    ids=["experts", "routers", "all but routers", "all but experts"],
)
def test_frozen_parts_of_sparse_layers(rates: RatesConfig, extra: int, still: int, pool: WorkerPool) -> None:
    """megatron-core's router computes both gradients or none; ``extra`` of its products in four layers go unused, and
    ``still`` routers, with nothing trained in or below them, compute none."""
    run = replace(SPARSE["top-2"], optim=OptimConfig(rates=rates))
    [batch] = batches = synthetic.batches(run, 1, seed=5)
    counted = pool.run(1, _count, run, batches)[0]
    flops = step_flops(run.model, computed(batch, run), rates)
    unused = extra * 2 * batch.tokens.numel() * run.model.sparse.experts * run.model.width
    assert counted.attention == attention_of(flops)
    assert counted.linear == flops.total - attention_of(flops) + balance_sums(run, batches, still) + unused


def one_image_a_row(run: RunConfig, length: int) -> Batch:
    """Rows that are one document of one image each, so that no computed pair is hidden; every label supervised."""
    rows, tokens = run.data.microbatch, torch.ones(run.data.microbatch, length, dtype=torch.int64)
    side = run.data.image_size // run.model.vision.patch
    values = run.model.vision.patch_values
    image = np.full(length, synthetic.SPECIAL["image"], dtype=np.int32)
    patches = np.zeros((length, values), dtype=np.float32)
    sample = Loaded("image", 1, 0, image, (patches,), (Grid(length // side, side),))
    batch = collate([[sample]] * rows, length, synthetic.SPECIAL, values)
    return replace(batch, labels=tokens, loss_weight=tokens.float())


def test_where_no_pair_is_hidden_the_total_is_exact(pool: WorkerPool) -> None:
    batch = one_image_a_row(TOY, 64)
    counted = pool.run(1, _count, TOY, [batch])[0]
    assert work(batch, TOY.model).attended_pairs == TOY.data.microbatch * 64**2
    assert computed(batch, TOY).attended_pairs == TOY.data.microbatch * 64**2
    assert counted.linear + counted.attention == batch_flops(TOY.model, [batch])


# Of a view of 16 patches and a class token attention computes 32 rows, which is more than a percent.
@pytest.mark.parametrize("name", [name for name in FAMILY if name != "class token"])
def test_packed_rows_of_a_wider_model_are_within_a_percent(name: str, pool: WorkerPool) -> None:
    """Hidden pairs that are computed all the same cost little where documents are short against the width."""
    toy = FAMILY[name]
    vision = replace(toy.model.vision, width=192, heads=4, ffn=512)
    groups = toy.model.query_groups and 4
    sparse = replace(toy.model.sparse, ffn=toy.model.sparse.ffn and 512)
    model = replace(toy.model, layers=1, width=384, ffn=1024, query_groups=groups, sparse=sparse, vision=vision)
    run = replace(toy, model=model, data=replace(toy.data, sequence_length=192, microbatch=1))
    batches = synthetic.batches(run, 1, seed=5)
    counted = pool.run(1, _count, run, batches)[0]
    assert counted.linear + counted.attention == pytest.approx(batch_flops(model, batches), rel=0.01)
