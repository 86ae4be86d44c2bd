"""Which part of the model a parameter belongs to, as a table: learning rates, freezing and telemetry go by part.

The parts are the fields of config.RatesConfig; names are those of ``NativeMultimodalModel.named_parameters`` (and of
its checkpoints), without any prefix of wrappers.
"""

import re

from megatron_nmm.config import RunConfig

PARTS: tuple[tuple[str, str], ...] = (
    (r"decoder\.layers\.\d+\..*\.layer_norm_weight", "norms"),  # a norm that stands in a linear layer
    (r"vision_encoder\.connector\.", "connector"),
    (r"vision_encoder\.", "vision"),
    (r"patch_stem\.", "vision"),
    (r"special_embedding\.", "special_embeddings"),
    (r"embedding\.", "embeddings"),
    (r"output_layer\.", "output"),
    (r"decoder\.layers\.\d+\.self_attention\.visual\.", "visual_attention"),
    (r"decoder\.layers\.\d+\.mlp\.visual\.", "visual_ffn"),
    (r"decoder\.layers\.\d+\.mlp\.router\.", "router"),
    (r"decoder\.layers\.\d+\.self_attention\.", "attention"),
    (r"decoder\.layers\.\d+\.mlp\.", "ffn"),
    (r"decoder\.layers\.\d+\.(input_layernorm|pre_mlp_layernorm)\.", "norms"),
    (r"decoder\.final_layernorm\.", "norms"),
)
"""Pattern of a parameter's name, from its beginning -> part; the first that matches counts."""

VISUAL_PARTS = ("vision", "connector", "visual_attention", "visual_ffn", "special_embeddings")
"""Parts that only images use; the others serve text, or both."""


def part_of(name: str) -> str:
    """The part of the parameter called ``name``; KeyError when the table has no row for it."""
    name = re.sub(r"^(module\.|chunks\.\d+\.)+", "", name)
    for pattern, part in PARTS:
        if re.match(pattern, name):
            return part
    raise KeyError(f"parameter {name!r} belongs to no part; give it a row in models/parts.py")


def relative_rate(name: str, run: RunConfig) -> float:
    """Learning rate of the parameter called ``name`` as a share of ``optim.learning_rate``; 0 = frozen.

    A tied output layer, which has a copy of the table on the last pipeline stage, goes with the embeddings.
    """
    part = part_of(name)
    if part == "output" and run.model.tie_embeddings:
        part = "embeddings"
    rate: float = getattr(run.optim.rates, part)
    return rate
