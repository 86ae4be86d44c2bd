"""Small runs of every structure that the planner's tables tell apart."""

from dataclasses import replace

from megatron_nmm.config import DataConfig, ModelConfig, RunConfig, SparseConfig, VisionConfig

DENSE = RunConfig(
    model=ModelConfig(layers=4, width=128, heads=4, query_groups=2, ffn=320, vocabulary=512),
    data=DataConfig(sequence_length=256, microbatch=2, global_batch=8, image_size=28),
)
ENCODER = VisionConfig(depth=3, width=64, heads=4, patch=8)
NAVIL = replace(
    ENCODER, mlp="gelu", bias=True, qk_norm=False, layer_scale=0.1, final_norm=False, connector="pixel_shuffle"
)

INTERN_VIT = replace(NAVIL, qkv_bias=True, norm="layer", positions="table", table_side=5, class_token=True)


def _with(**model: object) -> RunConfig:
    return replace(DENSE, model=replace(DENSE.model, **model))  # type: ignore[arg-type]


TOYS: dict[str, RunConfig] = {
    "dense": DENSE,
    "tied": _with(tie_embeddings=True, qk_norm=False),
    "late": replace(_with(query_groups=None, vision=ENCODER), data=replace(DENSE.data, image_size=32)),
    "experts": _with(modality_experts="all", special_embeddings=True, image_mask="causal"),
    "navil": replace(
        _with(modality_experts="all", special_embeddings=True, image_mask="causal", vision=NAVIL),
        data=replace(DENSE.data, image_rule="native", augment=False, min_patches=4, max_patches=24),
    ),
    "internvit": replace(
        _with(vision=INTERN_VIT),
        data=replace(DENSE.data, image_rule="native", augment=False, min_patches=4, max_patches=24),
    ),
    "sparse": _with(sparse=SparseConfig(experts=4, top_k=2, ffn=160)),
    "some sparse": _with(sparse=SparseConfig(experts=4, top_k=1, ffn=160, dense_layers=(0, 2))),
}
