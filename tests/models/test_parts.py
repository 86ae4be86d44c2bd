"""Parts: every parameter has one, every part is a field of the rates, tied tables go with the embeddings."""

from dataclasses import fields, replace

import pytest

from megatron_nmm.config import ModelConfig, OptimConfig, RunConfig
from megatron_nmm.config.schema import RatesConfig
from megatron_nmm.models.parts import PARTS, VISUAL_PARTS, part_of, relative_rate

NAMES = {
    "patch_stem.linear.bias": "vision",
    "vision_encoder.patch_stem.linear.weight": "vision",
    "vision_encoder.block.layers.3.self_attention.linear_qkv.weight": "vision",
    "vision_encoder.block.final_layernorm.weight": "vision",
    "vision_encoder.connector.fc1.weight": "connector",
    "special_embedding.weight": "special_embeddings",
    "embedding.word_embeddings.weight": "embeddings",
    "output_layer.weight": "output",
    "decoder.layers.11.self_attention.linear_qkv.weight": "attention",
    "decoder.layers.11.self_attention.q_layernorm.weight": "attention",
    "decoder.layers.11.self_attention.visual.linear_proj.weight": "visual_attention",
    "decoder.layers.11.self_attention.visual.k_layernorm.weight": "visual_attention",
    "decoder.layers.11.mlp.linear_fc1.weight": "ffn",
    "decoder.layers.11.mlp.visual.linear_fc2.weight": "visual_ffn",
    "decoder.layers.11.mlp.router.weight": "router",
    "decoder.layers.11.mlp.experts.linear_fc1.weight": "ffn",
    "decoder.layers.11.input_layernorm.weight": "norms",
    "decoder.layers.11.pre_mlp_layernorm.weight": "norms",
    "decoder.final_layernorm.weight": "norms",
}


@pytest.mark.parametrize("name", NAMES)
def test_part_of_a_name_with_and_without_wrappers(name: str) -> None:
    assert part_of(name) == part_of(f"module.module.{name}") == NAMES[name]


def test_parts_are_the_fields_of_the_rates() -> None:
    rates = {part.name for part in fields(RatesConfig)}
    assert {part for _, part in PARTS} == set(NAMES.values()) == rates
    assert set(VISUAL_PARTS) < rates


@pytest.mark.parametrize("name", ["decoder.layers.0.router.weight", "decoder.embedding.weight", "visual.weight"])
def test_a_name_without_a_part_is_refused(name: str) -> None:
    with pytest.raises(KeyError, match="belongs to no part"):
        part_of(name)


def test_rate_of_a_parameter_and_of_a_tied_output_layer() -> None:
    run = RunConfig(optim=OptimConfig(rates=RatesConfig(embeddings=0.25, output=0.5, ffn=0.0)))
    assert relative_rate("decoder.layers.0.mlp.linear_fc1.weight", run) == 0.0
    assert relative_rate("decoder.layers.0.self_attention.linear_qkv.weight", run) == 1.0
    assert relative_rate("output_layer.weight", run) == 0.5
    tied = replace(run, model=ModelConfig(tie_embeddings=True))
    assert relative_rate("output_layer.weight", tied) == relative_rate("embedding.word_embeddings.weight", tied) == 0.25
