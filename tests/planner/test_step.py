"""A step on the CPU allocates and sends, tensor by tensor, what the planner says."""

from functools import cache

import pytest

from megatron_nmm.config.overrides import apply
from megatron_nmm.planner.memory import activations, memory
from megatron_nmm.planner.place import Place
from megatron_nmm.planner.traffic import flows
from megatron_nmm.verify.workers import WorkerPool
from tests.planner import live
from tests.planner.toys import TOYS

WITHIN = 0.05
FULL, SP, TP2, SHARDED = (
    "parallel.recompute=full",
    "parallel.sequence=true",
    "parallel.tensor=2",
    "parallel.distributed_optimizer=true",
)
CASES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "one process": ("dense", 1, ()),
    "one process, recompute": ("dense", 1, (FULL,)),
    "tied, fp32": ("tied", 1, ("precision.dtype=fp32",)),
    "tensor": ("dense", 2, (TP2,)),
    "tensor and sequence": ("dense", 2, (TP2, SP)),
    "data, sharded optimizer": ("dense", 2, (SHARDED,)),
    "data": ("dense", 2, ()),
    "pipeline": ("dense", 2, ("parallel.pipeline=2",)),
    "pipeline of four": ("dense", 4, ("parallel.pipeline=4",)),
    "tied pipeline, sharded optimizer, recompute": ("tied", 4, ("parallel.pipeline=2", SHARDED, FULL)),
    "late fusion": ("late", 1, ()),
    "late fusion, images spread": ("late", 2, (TP2, "parallel.vision=data")),
    "late fusion, encoder split": ("late", 2, (TP2, SP, "parallel.vision=tensor")),
    "modality experts": ("experts", 2, (TP2, SP)),
    "navil": ("navil", 1, ()),
    "navil, sharded optimizer, fp32": ("navil", 2, (SHARDED, "precision.dtype=fp32")),
    "navil, recompute": ("navil", 2, (TP2, SP, FULL)),
    "navil in four": ("navil", 4, (TP2, SP, "parallel.pipeline=2")),
    "internvit": ("internvit", 1, ()),
    "internvit, encoder split": ("internvit", 2, (TP2, SP, "parallel.vision=tensor")),
    "sparse": ("sparse", 1, ()),
    "sparse, recompute": ("sparse", 1, (FULL,)),
    "sparse on two": ("sparse", 2, ("parallel.expert=2", SHARDED)),
    "sparse on four": ("sparse", 4, ("parallel.expert=4",)),
    "sparse pipeline": ("some sparse", 4, ("parallel.expert=2", "parallel.pipeline=2", FULL)),
}


@cache
def _seen(pool: WorkerPool, name: str) -> list[live.Seen]:
    """Every rank's step; measured once for all tests."""
    toy, ranks, changes = CASES[name]
    return pool.run(ranks, live.step, apply(TOYS[toy], changes))


@pytest.mark.parametrize("name", CASES)
def test_a_step_allocates_what_was_planned(name: str, pool: WorkerPool) -> None:
    toy, ranks, changes = CASES[name]
    run = apply(TOYS[toy], changes)
    place = Place.of(run, ranks)
    for number, seen in enumerate(_seen(pool, name)):
        rank = number // place.stage
        planned = memory(run, place, rank, seen.load, "few_passes")
        assert (planned.weights, planned.gradients) == (seen.weights, seen.gradients)
        # A sharded optimizer keeps no state of the padding between parameters, which one rank has more of than another.
        padding = 0.01 if run.parallel.distributed_optimizer else 0.0
        assert seen.optimizer <= planned.optimizer <= seen.optimizer * (1 + padding)
        assert planned.activations + planned.working == pytest.approx(seen.peak, rel=WITHIN)
        states = seen.weights + seen.gradients + seen.optimizer
        assert planned.total == pytest.approx(states + seen.peak, rel=WITHIN)


@pytest.mark.parametrize("name", [name for name, (_, _, changes) in CASES.items() if FULL not in changes])
def test_a_forward_pass_keeps_what_was_planned(name: str, pool: WorkerPool) -> None:
    """With full recomputation next to nothing is kept, and index vectors of the batch weigh too much to tell."""
    toy, ranks, changes = CASES[name]
    run = apply(TOYS[toy], changes)
    place = Place.of(run, ranks)
    for number, seen in enumerate(_seen(pool, name)):
        planned = activations(run, place, number // place.stage, seen.load, "few_passes")
        assert planned.total == pytest.approx(seen.kept, rel=1.2 * WITHIN)


@pytest.mark.parametrize("name", [name for name, (_, ranks, _) in CASES.items() if ranks == 2])
def test_a_step_sends_what_was_planned(name: str, pool: WorkerPool) -> None:
    toy, ranks, changes = CASES[name]
    run = apply(TOYS[toy], changes)
    place = Place.of(run, ranks)
    for number, seen in enumerate(_seen(pool, name)):
        planned = sum(flow.bytes for flow in flows(run, place, number // place.stage, seen.load))
        assert planned == pytest.approx(seen.sent, rel=WITHIN)


def test_recomputation_saves_what_it_says(pool: WorkerPool) -> None:
    """The peaks of the two modes differ as planned, not only each by itself."""
    whole, again = _seen(pool, "one process")[0], _seen(pool, "one process, recompute")[0]
    planned = []
    for changes in ((), (FULL,)):
        run = apply(TOYS["dense"], changes)
        used = memory(run, Place.of(run, 1), 0, whole.load, "few_passes")
        planned.append(used.activations + used.working)
    assert planned[0] - planned[1] == pytest.approx(whole.peak - again.peak, rel=WITHIN)
    assert again.peak < whole.peak / 2
