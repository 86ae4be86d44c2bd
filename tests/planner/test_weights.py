"""Parameters of a rank equal, tensor group by tensor group, those of the model it builds on the meta device."""

from dataclasses import replace

import pytest

from megatron_nmm.config import ModelConfig, ParallelConfig, RunConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.presets import early_fusion, late_fusion, navil, sparse_early_fusion
from megatron_nmm.models.accounting import parameters
from megatron_nmm.planner.place import Place
from megatron_nmm.planner.weights import TENSORS, held
from megatron_nmm.verify.workers import Place as Worker
from megatron_nmm.verify.workers import WorkerPool
from tests.planner.toys import TOYS

Counts = dict[tuple[str, bool], int]
"""(part, whether sparse experts' ranks share it) -> values."""

CLUSTERS: dict[str, tuple[ModelConfig, int, ParallelConfig]] = {
    "NaViL-9B": (navil("9b"), 64, ParallelConfig(tensor=4, sequence=True, pipeline=4)),
    "NaViL-9B, encoder whole": (navil("9b"), 256, ParallelConfig(tensor=8, sequence=True, vision="data")),
    "NaViL-2B, 23 heads": (navil("2b"), 32, ParallelConfig(tensor=2, sequence=True, pipeline=4)),
    "17.5 B sparse": (sparse_early_fusion("3.354b"), 64, ParallelConfig(expert=8, pipeline=4)),
    "sparse, tensor in expert": (
        sparse_early_fusion("1.627b"), 64, ParallelConfig(expert=8, tensor=2, sequence=True, pipeline=2)
    ),
    "late fusion": (late_fusion("1.748b"), 16, ParallelConfig(tensor=4, pipeline=2)),
    "tied": (replace(early_fusion("0.932b"), tie_embeddings=True), 16, ParallelConfig(tensor=4, pipeline=4)),
    "context": (navil("2b"), 32, ParallelConfig(tensor=2, sequence=True, context=4, pipeline=2)),
    "dealt in rounds": (navil("9b"), 64, ParallelConfig(tensor=2, sequence=True, pipeline=4, virtual_stages=3)),
    "stages as given": (early_fusion("0.275b"), 4, ParallelConfig(pipeline=4, stage_layers=(3, 10, 11, 0))),
}  # fmt: skip


def _built(worker: Worker, run: RunConfig, size: int, ranks: tuple[int, ...]) -> list[Counts]:
    """Counts of ``ranks`` of a job of ``size``, whose groups exist and talk to nobody."""
    return [_rank(run, size, rank) for rank in ranks]


def _rank(run: RunConfig, size: int, rank: int) -> Counts:
    from contextlib import nullcontext

    from megatron_nmm.device import meta
    from megatron_nmm.models.build import build
    from megatron_nmm.models.parts import part_of
    from megatron_nmm.parallel.experts import is_expert
    from megatron_nmm.parallel.world import World

    device = meta.like("cpu")
    device.start(0, 1, 0)
    with meta.aimed(device, lambda: None, nullcontext):
        world = World.join(run.parallel, device, 1, rank=rank, size=size, init_method=None)
        try:
            model = build(run, world)
        finally:
            world.close()
    counts: Counts = {}
    for name, p in model.named_parameters():
        part = part_of(name)
        # The tied table's copy on the last stage goes by the output layer's name.
        part = "embeddings" if part == "output" and run.model.tie_embeddings else part
        counts[part, is_expert(p)] = counts.get((part, is_expert(p)), 0) + p.numel()
    return counts


def planned(run: RunConfig, size: int, rank: int) -> Counts:
    """The same by the table."""
    counts: Counts = {}
    for one in held(run, Place.of(run, size), rank):
        key = (TENSORS[one.name].part, one.expert)
        counts[key] = counts.get(key, 0) + one.total
    return counts


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_stage_of_a_cluster_job(name: str, pool: WorkerPool) -> None:
    model, size, parallel = CLUSTERS[name]
    run = RunConfig(model=model, parallel=parallel)
    run = replace(run, data=replace(run.data, sequence_length=4096, global_batch=512))
    stage = size // parallel.pipeline
    # Another tensor, data and expert rank on every stage.
    ranks = tuple(number * stage + number * 7 % stage for number in range(parallel.pipeline))
    assert not [fault for fault in check(run, size) if fault.key.startswith(("parallel", "model", "world"))]
    built = pool.run(1, _built, run, size, ranks)[0]
    assert built == [planned(run, size, number) for number in range(parallel.pipeline)]


@pytest.mark.parametrize("toy", TOYS)
def test_one_rank_holds_everything(toy: str) -> None:
    run = TOYS[toy]
    counts = planned(run, 1, 0)
    of_parts: dict[str, int] = {}
    for (part, _), values in counts.items():
        of_parts[part] = of_parts.get(part, 0) + values
    assert of_parts == parameters(run.model).by_part


def test_stages_and_experts_add_up_to_the_model() -> None:
    """What tensor ranks hold alike aside, every value stands on exactly one stage."""
    model = sparse_early_fusion("1.627b")
    run = RunConfig(model=model, parallel=ParallelConfig(expert=8, pipeline=4))
    place = Place.of(run, 32)
    total = sum(one.total * (8 if one.expert else 1) for rank in range(4) for one in held(run, place, rank))
    assert total == parameters(model).total


def test_frozen_parts_are_held_and_not_trained() -> None:
    run = TOYS["navil"]
    run = replace(run, optim=replace(run.optim, rates=replace(run.optim.rates, attention=0.0, embeddings=0.0)))
    frozen = {one.name for one in held(run, Place.of(run, 1), 0) if not one.trained}
    assert frozen == {"linear_qkv", "linear_proj", "q_layernorm", "k_layernorm", "word_embeddings"}
