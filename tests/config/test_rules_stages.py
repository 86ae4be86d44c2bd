"""Rules of pipeline stages: the wording of each, and what is legal under virtual stages by an oracle."""

import itertools
from collections.abc import Sequence

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.overrides import apply
from tests.config.test_rules import offers

RUN = RunConfig()
TWO = "parallel.virtual_stages=2"


def faults(changes: Sequence[str], world_size: int) -> list[str]:
    """The faults of the default run with some changes, as text."""
    return [str(fault) for fault in check(apply(RUN, changes), world_size)]


@pytest.mark.parametrize(
    ("changes", "world_size", "told"),
    [
        (
            [TWO, "parallel.pipeline=2"],
            2,
            "parallel.virtual_stages 2 with parallel.pipeline 2 has the ranks before and after each be the same one, "
            "whose messages megatron-core mixes up; use parallel.virtual_stages 1, or parallel.pipeline 3 or 4",
        ),
        (
            [TWO],
            1,
            "parallel.virtual_stages 2 with parallel.pipeline 1 deals stages over pipeline ranks, and there is one; "
            "use parallel.virtual_stages 1, or parallel.pipeline 3 or 4",
        ),
        (
            ["parallel.virtual_stages=7", "parallel.pipeline=4"],
            4,
            "model.layers 24 is fewer than parallel.pipeline 4 x parallel.virtual_stages 7 = 28 stages, and every "
            "stage needs a layer; use parallel.virtual_stages 6, or model.layers 28",
        ),
        (
            [TWO, "parallel.pipeline=4", "parallel.stage_layers=[6, 6, 6, 6]"],
            4,
            "parallel.stage_layers [6, 6, 6, 6] is for 4 pipeline stages, and there are parallel.pipeline 4 x "
            "parallel.virtual_stages 2 = 8 stages; use parallel.stage_layers [], or parallel.pipeline 2",
        ),
        (
            [TWO, "parallel.pipeline=4", "data.global_batch=12"],
            8,
            "data.global_batch 12 makes 6 microbatches on each data rank, and parallel.virtual_stages 2 takes "
            "multiples of parallel.pipeline 4; use data.global_batch 8 or 16, or parallel.virtual_stages 1",
        ),
    ],
)
def test_wording(changes: list[str], world_size: int, told: str) -> None:
    assert faults(changes, world_size) == [told]


def test_what_is_legal_and_that_every_remedy_helps() -> None:
    seen = {True: 0, False: 0}
    for virtual, pipeline, layers, rows, copies in itertools.product(
        (1, 2, 3), (1, 2, 3, 4), (2, 6, 12), (4, 12, 24), (1, 2)
    ):
        changes = [
            f"parallel.virtual_stages={virtual}",
            f"parallel.pipeline={pipeline}",
            f"model.layers={layers}",
            f"data.global_batch={rows}",
        ]
        expected = layers >= virtual * pipeline and (virtual == 1 or (pipeline > 2 and rows // copies % pipeline == 0))
        run, world = apply(RUN, changes), pipeline * copies
        found = check(run, world)
        assert (found == ()) == expected, (changes, world)
        seen[expected] += 1
        for fault in found:
            for key, value in offers(fault.remedy):
                mended = apply(run, [f"{key}={value}"])
                left = check(mended, mended.parallel.pipeline * copies)
                assert fault.fact not in [other.fact for other in left], (fault, key, value)
    assert min(seen.values()) > 20
