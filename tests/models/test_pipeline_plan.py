"""Stages are planned from FLOPs: an encoder moves layers away from the first stage, and the note says by how much."""

from dataclasses import replace

import pytest

from megatron_nmm.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    RatesConfig,
    RunConfig,
    SparseConfig,
)
from megatron_nmm.config.presets import early_fusion, late_fusion, navil, sparse_early_fusion
from megatron_nmm.models.accounting import Work, parameters, step_flops
from megatron_nmm.models.pipeline_plan import stage_costs, stage_layers, stage_note, typical_row
from megatron_nmm.models.to_mcore import pipeline_layout
from megatron_nmm.verify import layouts
from megatron_nmm.verify.workers import Place, WorkerPool

NAVIL = RunConfig(
    model=navil("2b"), data=DataConfig(image_rule="native", augment=False, sequence_length=16_384, max_patches=4096)
)


def spread(model: ModelConfig, pipeline: int) -> RunConfig:
    """A run of ``model`` in square images on some stages."""
    return RunConfig(model=model, parallel=ParallelConfig(pipeline=pipeline))


def test_costs_are_those_of_the_accounting() -> None:
    """A layer, what stands before and what comes after them make up the step."""
    run = spread(late_fusion("1.748b"), 4)
    costs, row = stage_costs(run), typical_row(run)
    assert row == Work(
        tokens=1024,
        attended_pairs=1024 * 1025 // 2,
        logit_tokens=467,
        patches=557,
        filled_tokens=1024,
        visual_tokens=557,
        view_pairs=557 * 256,
    )
    assert run.model.layers * costs.layer + costs.first + costs.last == step_flops(run.model, row).total
    # The encoder reads 557 of 1,024 tokens; both have 24 layers.
    counted = parameters(run.model)
    assert costs.first / (24 * costs.layer) == pytest.approx(
        557 * counted.vision_matrices / (1024 * counted.decoder), rel=0.05
    )
    assert costs.last == 6 * 467 * 50_432 * 2048


def test_row_of_native_images() -> None:
    row = typical_row(NAVIL)
    images = round(0.544 * 16_384)
    assert (row.tokens, row.visual_tokens, row.patches) == (16_384, images, 4 * images)
    assert row.view_pairs == row.patches * 32**2  # half-way between 16 x 16 and 64 x 64 patches
    small = replace(NAVIL, data=replace(NAVIL.data, sequence_length=512))
    assert typical_row(small).view_pairs == 4 * round(0.544 * 512) * 32**2
    tiny = replace(NAVIL, data=replace(NAVIL.data, sequence_length=2))
    assert typical_row(tiny).patches == 4


def test_encoder_and_output_layer_weigh_as_much_as_they_compute() -> None:
    assert stage_layers(spread(early_fusion("3.354b"), 4)) == (6, 6, 6, 6)
    first, *_, last = stage_layers(spread(early_fusion("0.275b"), 4))  # 50,432 words for 800 numbers: many logits
    assert last < first <= 7
    assert stage_layers(spread(late_fusion("2.430b"), 4))[0] < 6
    assert stage_layers(replace(NAVIL, parallel=ParallelConfig(pipeline=4)))[0] == 0


def test_sparse_layers_weigh_as_much_as_a_token_takes_of_them() -> None:
    """One of eight experts costs what an MLP does, and a router; two make layers outweigh the output layer more."""
    dense, one, two = (
        stage_costs(spread(model, 4))
        for model in (early_fusion("0.275b"), sparse_early_fusion("0.275b"), sparse_early_fusion("0.275b", "8e-top2"))
    )
    assert (one.first, one.last) == (two.first, two.last) == (dense.first, dense.last)
    assert one.layer == dense.layer + 6 * 1024 * 8 * 800
    assert two.layer == one.layer + 6 * 1024 * 3 * 800 * 2304
    plans = [stage_layers(spread(sparse_early_fusion("0.275b", variant), 4))[-1] for variant in ("8e-top1", "8e-top2")]
    assert plans[0] < plans[1]


def test_a_layer_costs_the_mean_where_some_are_dense() -> None:
    model = replace(early_fusion("0.275b"), sparse=SparseConfig(experts=8, top_k=2, dense_layers=tuple(range(6))))
    costs, run = stage_costs(spread(model, 4)), spread(model, 4)
    assert 24 * costs.layer + costs.first + costs.last == step_flops(model, typical_row(run)).total
    expert = 6 * 1024 * 3 * 800 * 2304
    router = 6 * 1024 * 8 * 800
    assert costs.layer == stage_costs(spread(early_fusion("0.275b"), 4)).layer + 18 / 24 * (expert + router)


def test_frozen_encoder_costs_its_forward_pass_alone() -> None:
    frozen = replace(
        NAVIL, optim=OptimConfig(rates=RatesConfig(vision=0, connector=0, embeddings=0, special_embeddings=0))
    )
    assert stage_costs(frozen).first == pytest.approx(stage_costs(NAVIL).first / 3, rel=0.01)
    two = ParallelConfig(pipeline=2)
    assert stage_layers(replace(frozen, parallel=two))[0] > stage_layers(replace(NAVIL, parallel=two))[0]


def test_given_stages_are_taken_as_they_are() -> None:
    run = replace(NAVIL, parallel=ParallelConfig(pipeline=3, stage_layers=(1, 20, 3)))
    assert stage_layers(run) == (1, 20, 3)
    layout = pipeline_layout(run)
    assert layout is not None
    assert [stage.count("decoder") for stage in layout] == [1, 20, 3]
    assert (layout[0][0], layout[-1][-1]) == ("embedding", "loss")
    assert pipeline_layout(NAVIL) is None


def test_note_tells_the_plan_and_its_price() -> None:
    assert stage_note(NAVIL) == ""
    run = replace(NAVIL, parallel=ParallelConfig(pipeline=2))
    first, last = stage_layers(run)
    assert stage_note(run).startswith(
        f"stages: {first} + {last} decoder layers (planned), with the encoder on the first"
    )
    given = replace(spread(early_fusion("3.354b"), 2), parallel=ParallelConfig(pipeline=2, stage_layers=(6, 18)))
    costs = stage_costs(given)
    whole = 24 * costs.layer + costs.first + costs.last
    slow = (18 * costs.layer + costs.last) / whole
    assert stage_note(given) == (
        "stages: 6 + 18 decoder layers (as given), with the patch stem on the first and the output layer on the last: "
        f"{1 - slow:.0%}, {slow:.0%} of the FLOPs; the slowest takes {2 * slow:.2f} x the mean"
    )


def _layers(place: Place, run: RunConfig) -> list[int]:
    """Numbers of the decoder layers this stage builds."""
    from megatron_nmm.models.build import build

    with place.world(run.parallel) as world:
        return [layer.layer_number for layer in build(run, world).module.decoder.layers]  # type: ignore[union-attr]


@pytest.mark.parametrize("given", [(1, 3), (4, 0), ()])
def test_every_rank_builds_its_stage(given: tuple[int, ...], pool: WorkerPool) -> None:
    run = layouts.toy(RunConfig(model=late_fusion("0.289b")))
    run = replace(run, parallel=replace(run.parallel, pipeline=2, stage_layers=given))
    first, last = pool.run(2, _layers, run)
    assert first + last == [1, 2, 3, 4]
    assert (len(first), len(last)) == stage_layers(run)
