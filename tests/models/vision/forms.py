"""Public encoders as configurations; tests make them as small as they like."""

from megatron_nmm.config import VisionConfig

INTERN_VIT = VisionConfig(
    depth=24,
    mlp="gelu",
    bias=True,
    qkv_bias=True,
    norm="layer",
    qk_norm=False,
    layer_scale=0.1,
    final_norm=False,
    positions="table",
    table_side=32,
    class_token=True,
    connector="pixel_shuffle",
)
"""InternViT-300M-448px's form; widths are to be given."""
