"""Parameters and floating-point operations of a model, counted from its configuration as tables of terms.

Standard library only, so that a plan, a check or a plot can count without building a model.
One multiply-add counts as two operations, as torch's FlopCounterMode counts it. Symbols: w width, h SwiGLU width,
V vocabulary, T tokens, P patches. P1 is "Scaling Laws for Native Multimodal Models" (arXiv 2504.07951).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from megatron_nmm.config.schema import ImageMask, ModelConfig
from megatron_nmm.errors import ConfigError, DataError

Count = Callable[[ModelConfig], int]

LAYER_MATRICES: dict[str, Count] = {
    "linear_qkv": lambda m: m.width * (m.heads + 2 * m.kv_heads) * m.head_width,
    "linear_proj": lambda m: m.heads * m.head_width * m.width,
    "linear_fc1": lambda m: m.width * 2 * m.ffn_width,  # gate and up
    "linear_fc2": lambda m: m.ffn_width * m.width,
}
"""Weights of one decoder layer's matrices; none has a bias."""

LAYER_NORMS: dict[str, Count] = {
    "input_layernorm": lambda m: m.width,
    "pre_mlp_layernorm": lambda m: m.width,
    "q_layernorm": lambda m: m.head_width if m.qk_norm else 0,
    "k_layernorm": lambda m: m.head_width if m.qk_norm else 0,
}
"""RMSNorm gains of one decoder layer; the norms of queries and keys are shared by all heads."""

EMBEDDINGS: dict[str, Count] = {
    "word_embeddings": lambda m: m.vocabulary * m.width,
    "output_layer": lambda m: 0 if m.tie_embeddings else m.vocabulary * m.width,
}

PATCH_STEM: dict[str, Count] = {
    "weight": lambda m: m.vision.patch_values * m.width,
    "bias": lambda m: m.width,
}
"""Early fusion's only vision parameters: one linear layer from a flattened patch to the decoder width."""


@dataclass(frozen=True)
class Parameters:
    """Trainable values by what they are for."""

    decoder: int
    """Matrices of the decoder layers."""
    embeddings: int
    """Input embedding and output layer; one table when they are tied."""
    norms: int
    """RMSNorm gains: per layer two and those of queries and keys, and the final one."""
    vision: int
    """What turns patches into decoder tokens."""

    @property
    def paper(self) -> int:
        """N as P1 counts it: decoder matrices and both embedding tables (Table 6, to three decimals)."""
        return self.decoder + self.embeddings

    @property
    def total(self) -> int:
        """Every trainable value."""
        return self.decoder + self.embeddings + self.norms + self.vision


def parameters(model: ModelConfig) -> Parameters:
    """Exact counts; ConfigError for a model with a vision encoder, which these tables do not describe."""
    _require_early_fusion(model)
    return Parameters(
        decoder=model.layers * _sum(LAYER_MATRICES, model),
        embeddings=_sum(EMBEDDINGS, model),
        norms=model.layers * _sum(LAYER_NORMS, model) + model.width,
        vision=_sum(PATCH_STEM, model),
    )


@dataclass(frozen=True)
class Work:
    """What a step processes, summed over its rows."""

    tokens: int
    """Decoder positions, padding included if it is computed."""
    attended_pairs: int
    """(query, key) pairs that attend, per head and layer; see ``attended_pairs``."""
    patches: int
    """Image patches through the stem."""
    logit_tokens: int
    """Positions whose logits are computed."""


@dataclass(frozen=True)
class Term:
    """One kind of matrix product."""

    forward: Callable[[ModelConfig, Work], int]
    """Operations of the forward pass, all layers."""
    backward: int = 2
    """Backward operations per forward operation: one for the weights' gradient, one for the inputs'."""


def _layer_term(name: str) -> Term:
    """Every token through one matrix of every layer."""
    return Term(lambda m, work: 2 * m.layers * work.tokens * LAYER_MATRICES[name](m))


def _pair_operations(model: ModelConfig, work: Work) -> int:
    """One product over the head width per attending pair, head and layer."""
    return 2 * model.layers * work.attended_pairs * model.heads * model.head_width


TERMS: dict[str, Term] = {
    **{name: _layer_term(name) for name in LAYER_MATRICES},
    "attention_scores": Term(_pair_operations),
    "attention_values": Term(_pair_operations),
    "output_layer": Term(lambda m, work: 2 * work.logit_tokens * m.vocabulary * m.width),
    # Pixels take no gradient.
    "patch_stem": Term(lambda m, work: 2 * work.patches * PATCH_STEM["weight"](m), backward=1),
}
"""Every matrix product of a training step; norms, activations, RoPE and softmax stay below one percent of them."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one training step, without recomputation."""

    by_term: dict[str, int]
    """Forward and backward operations of every term of ``TERMS``."""
    forward: int
    """Forward operations of all terms."""

    @property
    def total(self) -> int:
        """Forward and backward operations of all terms."""
        return sum(self.by_term.values())


def step_flops(model: ModelConfig, tokens: int, attended_pairs: int, patches: int, logit_tokens: int) -> Flops:
    """Exact operations of one step; the arguments are those of ``Work``. ConfigError as in ``parameters``."""
    _require_early_fusion(model)
    work = Work(tokens, attended_pairs, patches, logit_tokens)
    forward = {name: term.forward(model, work) for name, term in TERMS.items()}
    return Flops(
        by_term={name: operations * (1 + TERMS[name].backward) for name, operations in forward.items()},
        forward=sum(forward.values()),
    )


def six_nd(model: ModelConfig, tokens: int) -> int:
    """P1's estimate C = 6 N D of a training run over ``tokens`` (section 2), N being ``Parameters.paper``."""
    return 6 * parameters(model).paper * tokens


def attended_pairs(document_lengths: Sequence[int], image_blocks: Sequence[tuple[int, int]], mask: ImageMask) -> int:
    """(query, key) pairs of one packed row: causal inside each document, and both ways inside each image.

    ``image_blocks`` are (start, end exclusive) positions in the row and count only for a bidirectional mask.
    DataError when a block is empty, overlaps another or leaves its document, for then the mask is not defined.
    """
    pairs: int = sum(map(causal_pairs, document_lengths))
    if mask == "causal":
        return pairs
    ends = list(accumulate(document_lengths))
    previous = 0
    for start, end in sorted(image_blocks):
        document_end = next((e for e in ends if start < e), 0)
        if not previous <= start < end <= document_end:
            raise DataError(
                f"image block ({start}, {end}) is empty, overlaps the one before it or leaves its document; document "
                f"ends are {ends}: give blocks of one image each, inside one document"
            )
        previous = end
        pairs += later_pairs(end - start)
    return pairs


def causal_pairs(length: Any) -> Any:
    """(query, key) pairs of a document of ``length`` tokens: each sees itself and all before; int or integer tensor."""
    return length * (length + 1) // 2


def later_pairs(length: Any) -> Any:
    """Pairs that bidirectional attention inside an image of ``length`` tokens adds to the causal ones: later keys."""
    return length * (length - 1) // 2


def _sum(table: dict[str, Count], model: ModelConfig) -> int:
    """Sum of a table's terms."""
    return sum(count(model) for count in table.values())


def _require_early_fusion(model: ModelConfig) -> None:
    """The tables describe a patch stem, so a model with an encoder must not be counted with them."""
    if model.vision.depth:
        raise ConfigError(
            f"model.vision.depth {model.vision.depth} has no parameter table, only early fusion has; use depth 0"
        )
