"""Sizes of parts: the same in every layout, each weight counted once."""

from dataclasses import fields, replace

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.config.schema import RatesConfig
from megatron_nmm.models.build import build
from megatron_nmm.models.part_sizes import part_sizes
from megatron_nmm.verify import layouts
from megatron_nmm.verify.layouts import LAYOUTS
from megatron_nmm.verify.workers import Place, WorkerPool

PARTS = [part.name for part in fields(RatesConfig)]
PLACES = {layout.name: layout for layout in LAYOUTS}


def _run(tied: bool) -> RunConfig:
    run = layouts.toy(RunConfig())
    return replace(run, model=replace(run.model, layers=2, width=32, ffn=48, tie_embeddings=tied))


def _sizes(place: Place, run: RunConfig) -> dict[str, int]:
    with place.world(run.parallel, run.seed) as world:
        return part_sizes(build(run, world), world)


@pytest.mark.parametrize("name", ["one process", "TP2+SP", "PP2", "DP2+distributed optimizer"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_weight_counts_once(name: str, tied: bool, pool: WorkerPool) -> None:
    run, layout = _run(tied), PLACES.get(name, layouts.SINGLE)
    width, ffn, vocabulary = run.model.width, run.model.ffn_width, run.model.vocabulary
    expected = {
        "vision": run.model.vision.patch_values * width + width,
        "embeddings": vocabulary * width,
        "attention": 2 * (4 * width * width + 2 * run.model.head_width),
        "ffn": 2 * 3 * width * ffn,
        "norms": 2 * 2 * width + width,
        "output": vocabulary * width,
    }
    if tied:
        del expected["output"]
    for sizes in pool.run(layout.processes, _sizes, replace(run, parallel=layout.parallel)):
        assert sizes == expected and sorted(sizes, key=PARTS.index) == list(sizes)
