"""Parameter counts of the real model, built on the meta device, equal the paper's table and our own accounting."""

from dataclasses import replace

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.config.presets import EARLY_FUSION, early_fusion
from megatron_nmm.models.accounting import parameters
from megatron_nmm.verify.workers import Place, WorkerPool

PAPER = {
    "0.275b": 0.275,
    "0.464b": 0.464,
    "0.932b": 0.932,
    "1.627b": 1.627,
    "2.280b": 2.280,
    "3.354b": 3.354,
    "8.129b": 8.129,
}
"""P1 Table 6 and its hold-out model, billions of decoder and embedding parameters."""


def _count(place: Place, run: RunConfig) -> dict[str, int]:
    import torch

    from megatron_nmm.models.native import NativeMultimodalModel
    from megatron_nmm.models.to_mcore import transformer_config

    with place.world(run.parallel) as world:
        config = transformer_config(run, world)
        config.perform_initialization = False
        config.use_cpu_initialization = True
        with torch.device("meta"):
            model = NativeMultimodalModel(run, config, world)
    return {name: p.numel() for name, p in model.named_parameters()}


@pytest.mark.parametrize("label", PAPER)
def test_the_papers_sizes(label: str, pool: WorkerPool) -> None:
    assert label in EARLY_FUSION
    model = early_fusion(label)
    counts = pool.run(1, _count, RunConfig(model=model))[0]
    expected = parameters(model)
    vision = sum(n for name, n in counts.items() if name.startswith("patch_stem"))
    norms = sum(n for name, n in counts.items() if "norm" in name)
    assert vision == expected.vision
    assert norms == expected.norms
    assert sum(counts.values()) == expected.total
    assert round((sum(counts.values()) - vision - norms) / 1e9, 3) == PAPER[label]


def test_grouped_queries_and_ties_count_too(pool: WorkerPool) -> None:
    model = replace(early_fusion("0.275b"), query_groups=4, tie_embeddings=True, qk_norm=False)
    counts = pool.run(1, _count, RunConfig(model=model))[0]
    assert sum(counts.values()) == parameters(model).total
