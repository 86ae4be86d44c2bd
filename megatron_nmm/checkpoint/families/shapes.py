"""The shape of every tensor of a model as its settings want it, as a table: what weights are held against.

Names are those of our checkpoints, whatever the layout that wrote them.
"""

import re
from collections.abc import Callable, Iterable

from megatron_nmm.config import ModelConfig
from megatron_nmm.models.accounting.tensors import SPECIAL_ROWS

Shape = tuple[int, ...]
Size = Callable[[ModelConfig], Shape]


def _gates(model: ModelConfig) -> int:
    return 2 if model.vision.mlp == "swiglu" else 1


def _merged(model: ModelConfig) -> int:
    return model.vision.width * model.vision.shuffle**2


LAYER, VISION = r"decoder\.layers\.\d+\.", r"vision_encoder\.block\.layers\.\d+\."
ATTENTION, MLP, EXPERTS = LAYER + r"self_attention\.(visual\.)?", LAYER + r"mlp\.(visual\.)?", LAYER + r"mlp\.experts\."

SHAPES: tuple[tuple[str, Size], ...] = (
    (r"(embedding\.word_embeddings|output_layer)\.weight", lambda m: (m.vocabulary, m.width)),
    (r"special_embedding\.weight", lambda m: (SPECIAL_ROWS, m.width)),
    (rf"({LAYER}(input|pre_mlp)_|decoder\.final_)layernorm\.weight", lambda m: (m.width,)),
    (ATTENTION + r"linear_qkv\.weight", lambda m: ((m.heads + 2 * m.kv_heads) * m.head_width, m.width)),
    (ATTENTION + r"linear_proj\.weight", lambda m: (m.width, m.heads * m.head_width)),
    (ATTENTION + r"[qk]_layernorm\.weight", lambda m: (m.head_width,)),
    (MLP + r"linear_fc1\.weight", lambda m: (2 * m.ffn_width, m.width)),
    (MLP + r"linear_fc2\.weight", lambda m: (m.width, m.ffn_width)),
    (LAYER + r"mlp\.router\.weight", lambda m: (m.sparse.experts, m.width)),
    (LAYER + r"mlp\.router\.expert_bias", lambda m: (m.sparse.experts,)),
    (EXPERTS + r"experts\.linear_fc1\.weight", lambda m: (m.sparse.experts, 2 * m.expert_width, m.width)),
    (EXPERTS + r"experts\.linear_fc2\.weight", lambda m: (m.sparse.experts, m.width, m.expert_width)),
    (r"patch_stem\.linear\.weight", lambda m: (m.width, m.vision.patch_values)),
    (r"patch_stem\.linear\.bias", lambda m: (m.width,)),
    (r"vision_encoder\.patch_stem\.linear\.weight", lambda m: (m.vision.width, m.vision.patch_values)),
    (r"vision_encoder\.patch_stem\.linear\.bias", lambda m: (m.vision.width,)),
    (r"vision_encoder\.positions\.table", lambda m: (m.vision.table_rows, m.vision.width)),
    (r"vision_encoder\.positions\.class_token", lambda m: (m.vision.width,)),
    (VISION + r"self_attention\.linear_qkv\.weight", lambda m: (3 * m.vision.width, m.vision.width)),
    (VISION + r"self_attention\.linear_qkv\.bias", lambda m: (3 * m.vision.width,)),
    (VISION + r"self_attention\.linear_proj\.weight", lambda m: (m.vision.width, m.vision.width)),
    (VISION + r"self_attention\.[qk]_layernorm\.weight", lambda m: (m.vision.head_width,)),
    (VISION + r"mlp\.linear_fc1\.weight", lambda m: (_gates(m) * m.vision.ffn_width, m.vision.width)),
    (VISION + r"mlp\.linear_fc1\.bias", lambda m: (_gates(m) * m.vision.ffn_width,)),
    (VISION + r"mlp\.linear_fc2\.weight", lambda m: (m.vision.width, m.vision.ffn_width)),
    # Norms, LayerScale and the other biases.
    (r"vision_encoder\.block\..*\.(weight|bias)", lambda m: (m.vision.width,)),
    (r"vision_encoder\.connector\.norm\.(weight|bias)", lambda m: (_merged(m),)),
    (r"vision_encoder\.connector\.(linear|fc1)\.weight", lambda m: (m.width, _merged(m))),
    (r"vision_encoder\.connector\.fc2\.weight", lambda m: (m.width, m.width)),
    (r"vision_encoder\.connector\..*\.bias", lambda m: (m.width,)),
)
"""Pattern of a whole name -> shape; the first that matches counts."""


def shapes(model: ModelConfig, names: Iterable[str]) -> dict[str, Shape]:
    """Name -> shape in ``model``; KeyError for a name that the table has no row for."""
    return {name: _shape(model, name) for name in names}


def _shape(model: ModelConfig, name: str) -> Shape:
    for pattern, size in SHAPES:
        if re.fullmatch(pattern, name):
            return size(model)
    raise KeyError(f"{name!r} has no shape; give it a row in checkpoint/families/shapes.py")
