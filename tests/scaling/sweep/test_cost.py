"""What a study costs: worked out by hand for a toy, the published sums for the presets."""

from pathlib import Path

import pytest

from megatron_nmm.models.accounting import parameters
from megatron_nmm.scaling.sweep.cost import cost, gpu_hours, per_step, sizes
from megatron_nmm.scaling.sweep.design import Candidate, Design
from megatron_nmm.scaling.sweep.expand import Trunk, expand
from megatron_nmm.scaling.sweep.presets import PRESETS
from tests.scaling.sweep.designs import LATE, RUN, design

OUT = Path("out")


@pytest.fixture(scope="module")
def p1() -> tuple[Trunk, ...]:
    return expand(PRESETS["p1"](), OUT)


def test_shared_trunks_are_paid_once() -> None:
    """100 + 200 + 400 steps alone; 320 + 20 + 40 + 80 with one trunk."""
    trunk = expand(design(), OUT)[0]
    counted = parameters(RUN.model)
    assert per_step(trunk) == 6 * counted.active * 1000
    total = cost([trunk])
    assert (total.runs, total.trunks) == (3, 1)
    assert total.alone == 700 * per_step(trunk)
    assert total.shared == 460 * per_step(trunk)
    assert total.saved == pytest.approx(1 - 460 / 700)


def test_an_encoder_is_paid_for_images_alone() -> None:
    grid = design().grids[0]
    late = design(grids=(type(grid)((Candidate("late", "s", LATE), Candidate("late", "m", LATE)), grid.tokens),))
    trunk = expand(late, OUT)[0]
    counted = sizes(LATE.model)
    assert 0 < counted.vision < counted.active
    images = trunk.mixture.image_share * 1000
    assert per_step(trunk) == pytest.approx(6 * (counted.vision * images + (counted.active - counted.vision) * 1000))


def test_hours_of_a_gpu() -> None:
    assert gpu_hours(3600e12, 2e12, 0.5) == 1.0


@pytest.mark.parametrize(("name", "runs"), [("p1-mixture", 76), ("p1", 457), ("navil", 48), ("laptop", 60)])
def test_presets_hold_the_papers_numbers_of_runs(name: str, runs: int) -> None:
    made: Design = PRESETS[name]()
    assert made.name == name
    assert cost(expand(made, OUT)).runs == runs


def test_p1_has_76_runs_of_each_family_and_mixture(p1: tuple[Trunk, ...]) -> None:
    counts: dict[tuple[str, str], int] = {}
    for trunk in p1:
        if trunk.model.size != "8.129b":
            key = (trunk.model.family, trunk.mixture.label)
            counts[key] = counts.get(key, 0) + len(trunk.branches)
    assert set(counts.values()) == {76}
    assert len(counts) == 6


def test_p1_s_runs_are_table_6_s(p1: tuple[Trunk, ...]) -> None:
    """Learning rates, batches of 2 M tokens, warm-up by length, a fifth for the cooldown, Table 5's shares."""
    rates = {trunk.model.size: trunk.run.optim.learning_rate for trunk in p1 if trunk.model.family == "early"}
    assert rates["0.275b"] == 1.5e-3 and rates["0.932b"] == 5e-4 and rates["3.354b"] == 3.5e-4
    trunk = next(t for t in p1 if t.model.size == "0.275b" and t.run.schedule.warmup == 5000)
    branch = trunk.branches[-1]
    assert (branch.run.steps, branch.start) == (190_735, 152_588)
    assert {s.corpus: s.weight for s in trunk.run.data.train} == pytest.approx(
        {"corpora/dfn": 27, "corpora/coyo": 11.25, "corpora/hqitp": 6.75, "corpora/obelics": 45, "corpora/dclm": 10}
    )
    lengths = [
        b.run.steps for t in p1 if t.model.family == "sparse" for b in t.branches if t.run.schedule.warmup == 2500
    ]
    assert max(lengths) < 20_000, "sparse models warm up for 2,500 steps below 20,000"


def test_branching_halves_p1_s_cost(p1: tuple[Trunk, ...]) -> None:
    total = cost(p1)
    assert total.alone == pytest.approx(3.47e23, rel=0.01)
    assert total.shared == pytest.approx(1.76e23, rel=0.01)


def test_navil_s_encoders_are_as_large_as_they_are_called() -> None:
    for trunk in expand(PRESETS["navil"](), OUT):
        label = float(trunk.model.size.partition("+")[2].removesuffix("m")) * 1e6
        assert parameters(trunk.run.model).vision_matrices == pytest.approx(label, rel=0.05)
        assert trunk.run.schedule.warmup == 200 and trunk.run.optim.learning_rate == 5e-5
