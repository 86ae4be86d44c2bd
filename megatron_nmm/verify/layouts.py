"""The layouts a model must survive, as a table, and the toy of a recipe they are tried on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_nmm.config import ParallelConfig, RunConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.schema_model import SparseConfig, VisionConfig


@dataclass(frozen=True)
class Layout:
    """A way to spread one model over ``processes`` processes."""

    name: str
    processes: int
    parallel: ParallelConfig


LAYOUTS = (
    Layout("TP2", 2, ParallelConfig(tensor=2)),
    Layout("TP2+SP", 2, ParallelConfig(tensor=2, sequence=True)),
    Layout("PP2", 2, ParallelConfig(pipeline=2)),
    Layout("DP2", 2, ParallelConfig()),
    Layout("DP2+distributed optimizer", 2, ParallelConfig(distributed_optimizer=True)),
    Layout("TP2+recompute", 2, ParallelConfig(tensor=2, recompute="full")),
    Layout("TP2xPP2", 4, ParallelConfig(tensor=2, pipeline=2)),
    Layout("TP2xPP2+SP", 4, ParallelConfig(tensor=2, pipeline=2, sequence=True)),
    Layout("TP2xDP2+SP+distributed optimizer", 4, ParallelConfig(tensor=2, sequence=True, distributed_optimizer=True)),
    Layout("PP2xDP2", 4, ParallelConfig(pipeline=2)),
    Layout("CP2", 2, ParallelConfig(context=2)),
    Layout("CP2xTP2+SP", 4, ParallelConfig(context=2, tensor=2, sequence=True)),
    Layout("CP2xPP2", 4, ParallelConfig(context=2, pipeline=2)),
    Layout("CP2xDP2+distributed optimizer", 4, ParallelConfig(context=2, distributed_optimizer=True)),
    Layout("EP2", 2, ParallelConfig(expert=2)),
    Layout("EP2+distributed optimizer", 2, ParallelConfig(expert=2, distributed_optimizer=True)),
    Layout("EP2+recompute", 2, ParallelConfig(expert=2, recompute="full")),
    Layout("EP2 in TP2+SP", 2, ParallelConfig(expert=2, tensor=2, sequence=True)),
    Layout("EP2xDP2", 4, ParallelConfig(expert=2)),
    Layout("EP2xTP2+SP", 4, ParallelConfig(expert=2, tensor=2, sequence=True)),
    Layout("EP2 in CP2", 2, ParallelConfig(expert=2, context=2)),
    Layout("EP2xPP2", 4, ParallelConfig(expert=2, pipeline=2)),
    Layout("EP4", 4, ParallelConfig(expert=4)),
)
"""Every layout of at most four processes that computes differently; those of expert parallelism need sparse experts."""

DENSE = tuple(layout for layout in LAYOUTS if layout.parallel.expert == 1)
"""Those that a model without sparse experts has."""

SINGLE = Layout("one process", 1, ParallelConfig())
"""The reference."""


def toy(run: RunConfig) -> RunConfig:
    """``run`` shrunk to seconds: same structure (vision, norms, mask, ties, gating), few layers, narrow, fp32.

    Images are a few patches a side; under the native rule at least 4 patches and at most 24.
    """
    heads = 4
    groups = run.model.query_groups and max(2, heads * run.model.query_groups // run.model.heads)
    vision = _toy_vision(run.model.vision)
    side = 4 if vision.depth else 2
    return replace(
        run,
        model=replace(
            run.model,
            layers=4,
            width=64,
            heads=heads,
            query_groups=groups,
            ffn=96,
            vocabulary=128,
            sparse=_toy_sparse(run.model.sparse),
            vision=vision,
        ),
        precision=replace(run.precision, dtype="fp32"),
        data=replace(
            run.data,
            sequence_length=96,
            microbatch=2,
            global_batch=8,
            image_size=side * vision.patch,
            min_patches=4,
            max_patches=24,
        ),
        parallel=ParallelConfig(time_limit_s=run.parallel.time_limit_s),
    )


def _toy_sparse(sparse: SparseConfig) -> SparseConfig:
    """At most four experts, fine-grained ones still narrower than an MLP, and one layer dense if some are."""
    experts = min(sparse.experts, 4)
    return replace(
        sparse,
        experts=experts,
        top_k=min(sparse.top_k, experts) or 1,
        ffn=sparse.ffn and 48,
        dense_layers=(1,) if sparse.dense_layers else (),
    )


def _toy_vision(vision: VisionConfig) -> VisionConfig:
    """Two narrow layers, if there are any; an odd number of heads stays odd, and windows leave some of a view out.

    A table of positions is that of a square image.
    """
    patch = min(vision.patch, 8)
    if not vision.depth:
        return replace(vision, patch=patch)
    heads = 3 if vision.heads % 2 else 2
    return replace(
        vision,
        depth=2,
        width=16 * heads,
        heads=heads,
        ffn=40 * heads,
        window=4 if vision.window else 0,
        full_layers=(1,) if vision.full_layers else (),
        table_side=4 if vision.table_side else 0,
        patch=patch,
    )


def legal(run: RunConfig, processes: int) -> Iterator[tuple[Layout, RunConfig]]:
    """Layouts of at most ``processes`` that ``run`` accepts, each with the run set to it."""
    for layout in LAYOUTS:
        changed = replace(run, parallel=replace(layout.parallel, time_limit_s=run.parallel.time_limit_s))
        if layout.processes <= processes and not check(changed, layout.processes):
            yield layout, changed
