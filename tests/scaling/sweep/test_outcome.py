"""A finished run becomes a point with its own counts; one that is not there, or diverged, does not."""

import json
from pathlib import Path

import pytest

from megatron_nmm.errors import DataError
from megatron_nmm.models.accounting import parameters
from megatron_nmm.scaling.point import study_flops
from megatron_nmm.scaling.sweep.design import Candidate, Grid
from megatron_nmm.scaling.sweep.expand import Trunk, expand
from megatron_nmm.scaling.sweep.outcome import METRICS, last_step, outcome
from tests.scaling.sweep.designs import LATE, MIXTURE, design, ended

LOSSES = {"caption": 2.0, "text": 3.0}


@pytest.fixture
def trunk(tmp_path: Path) -> Trunk:
    """Of a model with an encoder."""
    models = (Candidate("late", "s", LATE), Candidate("late", "m", LATE))
    return expand(design(grids=(Grid(models, (100e3, 200e3), (MIXTURE,), (7,)),)), tmp_path)[0]


def test_a_point_is_what_the_run_read_and_reached(trunk: Trunk) -> None:
    branch = trunk.branches[0]
    ended(branch, LOSSES)
    point = outcome(trunk, branch)
    assert point is not None
    counted = parameters(LATE.model)
    assert (point.run, point.study, point.family, point.size) == ("late-s-60-0-40-s7-100k", "toy", "late", "s")
    assert (point.mixture, point.seed, point.experts, point.top_k) == ("60-0-40", 7, 1, 1)
    assert (point.active, point.total) == (counted.active, counted.total)
    assert point.vision == counted.vision + counted.connector
    assert (point.tokens, point.vision_tokens, point.counted_flops, point.seconds) == (1800, 1000, 2e6, 3.0)
    assert point.flops == study_flops(point.active, point.vision, 1800, 1000)
    assert dict(point.losses) == LOSSES and point.loss() == 2.5


def test_a_run_that_has_not_ended_has_no_point(trunk: Trunk) -> None:
    branch = trunk.branches[0]
    assert outcome(trunk, branch) is None
    ended(branch, LOSSES)
    path = Path(branch.run.folder) / METRICS
    path.write_bytes(path.read_bytes()[:-5])  # its last line is still being written
    assert last_step(path) == branch.run.steps
    assert outcome(trunk, branch) is None


def test_a_diverged_run_is_named(trunk: Trunk) -> None:
    ended(trunk.branches[0], {"caption": None, "text": 3.0})
    with pytest.raises(
        DataError, match=r"s7-100k/metrics.jsonl has no finite loss on caption at step 100: the run div"
    ):
        outcome(trunk, trunk.branches[0])


def test_a_run_without_validation_is_named(trunk: Trunk) -> None:
    ended(trunk.branches[0], {})
    with pytest.raises(DataError, match=r"ends without a validation loss; give the runs evaluate\.sources"):
        outcome(trunk, trunk.branches[0])


def test_records_of_an_older_version_are_named(trunk: Trunk) -> None:
    branch = trunk.branches[0]
    ended(branch, LOSSES)
    path = Path(branch.run.folder) / METRICS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[0]["read_tokens"]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(DataError, match="has steps without 'read_tokens': an older version wrote it"):
        outcome(trunk, branch)
