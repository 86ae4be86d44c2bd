"""Toys of every structure the package trains, each with its own kind of rows, masks and experts."""

from dataclasses import replace

from megatron_nmm.config import DataConfig, ModelConfig, ParallelConfig, PrecisionConfig, RunConfig, SparseConfig
from megatron_nmm.config.presets import modality_aware, navil
from megatron_nmm.config.schema_model import VisionConfig
from megatron_nmm.verify.layouts import toy

STRUCTURES = {
    "early": RunConfig(),
    "late": RunConfig(model=ModelConfig(vision=VisionConfig(depth=12))),
    "late, windows": RunConfig(model=ModelConfig(vision=VisionConfig(depth=12, window=8, full_layers=(3,)))),
    "navil": RunConfig(model=navil("9b"), data=DataConfig(image_rule="native", multi_scale=True, augment=False)),
    "navil, odd heads": RunConfig(model=navil("2b"), data=DataConfig(image_rule="native", augment=False)),
    "internvit": RunConfig(
        model=ModelConfig(
            vision=VisionConfig(
                depth=12, norm="layer", qkv_bias=True, positions="table", table_side=9, class_token=True
            )
        ),
        data=DataConfig(image_rule="native", augment=False),
    ),
    "modality ffn": RunConfig(model=modality_aware("0.275b")),
    "sparse": RunConfig(model=ModelConfig(sparse=SparseConfig(experts=8))),
    "sparse, top-2, a dense layer": RunConfig(
        model=ModelConfig(
            sparse=SparseConfig(
                experts=8, top_k=2, ffn=1152, normalise=True, dense_layers=(0,), z_loss=0.05, bias_rate=1e-3
            )
        )
    ),
}
ALONE = ParallelConfig()
BF16 = PrecisionConfig(dtype="bf16")


def small(structure: str, parallel: ParallelConfig = ALONE, precision: PrecisionConfig = BF16) -> RunConfig:
    """The toy of a structure in a layout; bf16 as on a cluster."""
    return replace(toy(STRUCTURES[structure]), parallel=parallel, precision=precision)
