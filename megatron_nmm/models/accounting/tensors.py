"""Every tensor of a model as one table: its part, how many values it has, how often the model has it.

Symbols: w width, h MLP width, V vocabulary, E sparse experts in a layer, F width of one of them. The parts are those of
models/parts.py, the fields of config.RatesConfig.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from megatron_nmm.config.schema_model import ModelConfig

Count = Callable[[ModelConfig], int]
Kind = Literal["matrix", "table", "stem", "gain", "bias"]


@dataclass(frozen=True)
class Tensor:
    """One trainable tensor."""

    part: str
    kind: Kind
    """matrix: of a layer or connector; table: embeddings and output layer; stem: from patches; gain: of a norm, or
    LayerScale; bias."""
    values: Count
    copies: Count
    """How often the model has it, in layers and experts together; 0 = not at all."""
    taken: Count | None = None
    """Of the copies, those that one token passes; None = all."""

    def count(self, model: ModelConfig) -> int:
        """Values of all copies."""
        return self._of(self.copies, model)

    def idle(self, model: ModelConfig) -> int:
        """Values of the copies that a token leaves out."""
        return 0 if self.taken is None else self.count(model) - self._of(self.taken, model)

    def _of(self, copies: Count, model: ModelConfig) -> int:
        # A model without the tensor need not have the shape to count one.
        return number * self.values(model) if (number := copies(model)) else 0


def _once(model: ModelConfig) -> int:
    return 1


def _layers(model: ModelConfig) -> int:
    return model.layers


def _dense_layers(model: ModelConfig) -> int:
    return model.layers - len(model.sparse_layers)


def _sparse_layers(model: ModelConfig) -> int:
    return len(model.sparse_layers)


def _experts(model: ModelConfig) -> int:
    """Sparse experts of all layers."""
    return len(model.sparse_layers) * model.sparse.experts


def _chosen_experts(model: ModelConfig) -> int:
    """Those of them that one token passes."""
    return len(model.sparse_layers) * model.sparse.top_k


def _depth(model: ModelConfig) -> int:
    return model.vision.depth


def _late(model: ModelConfig) -> int:
    return int(model.vision.depth > 0)


def _if_biased(model: ModelConfig) -> int:
    return model.vision.depth if model.vision.bias else 0


def _if_qkv_biased(model: ModelConfig) -> int:
    return model.vision.depth if model.vision.qkv_bias else 0


def _if_centred(model: ModelConfig) -> int:
    """Layers whose norms take the mean away, and have a bias."""
    return model.vision.depth if model.vision.norm == "layer" else 0


def _if_table(model: ModelConfig) -> int:
    return int(model.vision.depth > 0 and model.vision.table_rows > 0)


def _if_scaled(model: ModelConfig) -> int:
    return model.vision.depth if model.vision.layer_scale else 0


def _if_shuffled(model: ModelConfig) -> int:
    return int(model.vision.shuffle > 1)


def _if_two_matrices(model: ModelConfig) -> int:
    return int(model.vision.depth > 0 and model.vision.connector != "linear")


def _gates(model: ModelConfig) -> int:
    """Matrices of the encoder MLP's first layer: gate and up, or one."""
    return 2 if model.vision.mlp == "swiglu" else 1


def _connector_input(model: ModelConfig) -> int:
    """Width of what becomes one decoder token: one patch, or 2 x 2."""
    return model.vision.width * model.vision.shuffle**2


DECODER_LAYER: dict[str, Tensor] = {
    "input_layernorm": Tensor("norms", "gain", lambda m: m.width, _layers),
    "linear_qkv": Tensor("attention", "matrix", lambda m: m.width * (m.heads + 2 * m.kv_heads) * m.head_width, _layers),
    # The norms of queries and keys are shared by all heads.
    "q_layernorm": Tensor("attention", "gain", lambda m: m.head_width if m.qk_norm else 0, _layers),
    "k_layernorm": Tensor("attention", "gain", lambda m: m.head_width if m.qk_norm else 0, _layers),
    "linear_proj": Tensor("attention", "matrix", lambda m: m.heads * m.head_width * m.width, _layers),
    "pre_mlp_layernorm": Tensor("norms", "gain", lambda m: m.width, _layers),
    "linear_fc1": Tensor("ffn", "matrix", lambda m: m.width * 2 * m.ffn_width, _dense_layers),  # gate and up
    "linear_fc2": Tensor("ffn", "matrix", lambda m: m.ffn_width * m.width, _dense_layers),
}
"""One decoder layer, in the order of its forward pass; no linear layer has a bias."""

SPARSE: dict[str, Tensor] = {
    # [E, w]; the bias that steers the load (sparse.bias_rate) is not trained by gradients and no parameter.
    "router": Tensor("router", "matrix", lambda m: m.sparse.experts * m.width, _sparse_layers),
    # Of one expert: the model's own tensors are [E, 2F, w] and [E, w, F].
    "experts.linear_fc1": Tensor("ffn", "matrix", lambda m: m.width * 2 * m.expert_width, _experts, _chosen_experts),
    "experts.linear_fc2": Tensor("ffn", "matrix", lambda m: m.expert_width * m.width, _experts, _chosen_experts),
}
"""What a sparse layer has in place of linear_fc1 and linear_fc2; a padding position passes the router alone."""

EXPERTS: dict[str, Count] = {
    "attention": lambda m: m.layers if m.modality_experts == "all" else 0,
    "ffn": lambda m: m.layers if m.modality_experts != "none" else 0,
}
"""Part of a decoder layer -> layers in which image tokens have a twin of it."""

VISUAL: dict[str, Tensor] = {
    f"visual.{name}": replace(tensor, part=f"visual_{tensor.part}", copies=EXPERTS[tensor.part])
    for name, tensor in DECODER_LAYER.items()
    if tensor.part in EXPERTS
}

VISION_LAYER: dict[str, Tensor] = {
    "linear_qkv": Tensor("vision", "matrix", lambda m: 3 * m.vision.width**2, _depth),
    "linear_proj": Tensor("vision", "matrix", lambda m: m.vision.width**2, _depth),
    "linear_fc1": Tensor("vision", "matrix", lambda m: m.vision.width * _gates(m) * m.vision.ffn_width, _depth),
    "linear_fc2": Tensor("vision", "matrix", lambda m: m.vision.ffn_width * m.vision.width, _depth),
    "linear_qkv.bias": Tensor("vision", "bias", lambda m: 3 * m.vision.width, _if_qkv_biased),
    "linear_proj.bias": Tensor("vision", "bias", lambda m: m.vision.width, _if_biased),
    "linear_fc1.bias": Tensor("vision", "bias", lambda m: _gates(m) * m.vision.ffn_width, _if_biased),
    "linear_fc2.bias": Tensor("vision", "bias", lambda m: m.vision.width, _if_biased),
    "layer_norms": Tensor("vision", "gain", lambda m: 2 * m.vision.width, _depth),
    "layer_norms.bias": Tensor("vision", "bias", lambda m: 2 * m.vision.width, _if_centred),
    "qk_norms": Tensor("vision", "gain", lambda m: 2 * m.vision.head_width if m.vision.qk_norm else 0, _depth),
    "layer_scales": Tensor("vision", "gain", lambda m: 2 * m.vision.width, _if_scaled),
}
"""One encoder layer."""

TENSORS: dict[str, Tensor] = {
    # Early fusion: one linear layer from a flattened patch to the decoder's width.
    "patch_stem": Tensor("vision", "stem", lambda m: m.vision.patch_values * m.width, lambda m: 1 - _late(m)),
    "patch_stem.bias": Tensor("vision", "bias", lambda m: m.width, lambda m: 1 - _late(m)),
    "vision.patch_stem": Tensor("vision", "stem", lambda m: m.vision.patch_values * m.vision.width, _late),
    "vision.patch_stem.bias": Tensor("vision", "bias", lambda m: m.vision.width, _late),
    "vision.positions": Tensor("vision", "table", lambda m: m.vision.table_rows * m.vision.width, _if_table),
    "vision.class_token": Tensor("vision", "table", lambda m: m.vision.width, lambda m: min(m.vision.class_unit, 1)),
    **{f"vision.{name}": tensor for name, tensor in VISION_LAYER.items()},
    "vision.final_layernorm": Tensor(
        "vision", "gain", lambda m: m.vision.width, lambda m: _late(m) * m.vision.final_norm
    ),
    "vision.final_layernorm.bias": Tensor(
        "vision", "bias", lambda m: m.vision.width, lambda m: int(_if_centred(m) > 0) * m.vision.final_norm
    ),
    # The LayerNorm of the pixel shuffle has a gain and a bias.
    "connector.norm": Tensor("connector", "gain", lambda m: 2 * _connector_input(m), _if_shuffled),
    "connector.fc1": Tensor("connector", "matrix", lambda m: _connector_input(m) * m.width, _late),
    "connector.fc1.bias": Tensor("connector", "bias", lambda m: m.width, _late),
    "connector.fc2": Tensor("connector", "matrix", lambda m: m.width**2, _if_two_matrices),
    "connector.fc2.bias": Tensor("connector", "bias", lambda m: m.width, _if_two_matrices),
    "special_embedding": Tensor(
        "special_embeddings", "table", lambda m: SPECIAL_ROWS * m.width, lambda m: int(m.special_embeddings)
    ),
    "word_embeddings": Tensor("embeddings", "table", lambda m: m.vocabulary * m.width, _once),
    **DECODER_LAYER,
    **SPARSE,
    **VISUAL,
    "final_layernorm": Tensor("norms", "gain", lambda m: m.width, _once),
    "output_layer": Tensor("output", "table", lambda m: m.vocabulary * m.width, lambda m: int(not m.tie_embeddings)),
}
"""Name -> tensor; a twin of image tokens is called ``visual.`` and the name of the text's."""

SPECIAL_ROWS = 12
"""Rows of the special embedding table (data/rule.py, SPECIAL_TABLE; NaViL's released code has twelve)."""


def tensors(model: ModelConfig) -> Iterator[tuple[str, Tensor, int]]:
    """(name, tensor, values of all its copies) of every tensor that ``model`` has."""
    for name, tensor in TENSORS.items():
        if count := tensor.count(model):
            yield name, tensor, count
