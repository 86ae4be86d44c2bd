"""What a layer's forward pass keeps for its backward pass: every tensor, as a table.

Two columns, because kernels differ: "compiled" is a GPU (FlexAttention, megatron-core's fused SwiGLU, torch's RMSNorm),
"few_passes" a CPU (attention that keeps its probabilities, a gate that keeps its activated half). Operations not named
keep nothing, or what the one before them wrote. Symbols: w width of the residual stream, q and k values of a token's
queries and keys, f hidden width, t ranks of the tensor group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kernels = Literal["compiled", "few_passes"]
FP32 = 4


@dataclass(frozen=True)
class Layer:
    """A transformer layer of the decoder or the encoder as one rank computes it."""

    width: int
    query: int
    """Values of all heads of a token."""
    key: int
    """Values of its keys; its values have as many."""
    heads: int
    groups: int
    ffn: int
    """Hidden width of the MLP, or of one sparse expert."""
    gates: int
    """Matrices of the MLP's first layer: gate and up, or one."""
    qk_norm: bool
    tensor: int
    """Ranks that split its matrices."""
    sequence: int = 1
    """Ranks that split its residual stream."""
    context: int = 1
    """Ranks that share the positions of a row: every one of them holds the keys of all."""
    centred: bool = False
    """Norms of its residual stream take the mean away, and keep it."""
    scaled: bool = False
    """A learnt factor on each branch (LayerScale)."""
    split_attention: bool = False
    """Text and image rows are projected apart (modality experts)."""
    split_mlp: bool = False
    experts: int = 0
    """Sparse experts in the place of the MLP."""
    top_k: int = 0
    local_experts: int = 0
    """Those of them on this rank."""
    eight_bits: bool = False
    """Its products run in FP8 on a GPU."""

    @property
    def stream(self) -> float:
        """Values of the residual stream that this rank holds for one token of the group's."""
        return self.width / self.sequence


@dataclass(frozen=True)
class Kept:
    """One tensor."""

    values: Callable[[Layer], float]
    """Values for one token of the microbatch, on this rank."""
    kernels: tuple[Kernels, ...] = ("compiled", "few_passes")
    fp32: bool = False
    """Kept in fp32; others in the model's dtype."""
    operand: bool = False
    """Only a matrix product reads it: FP8 keeps it in 8 bits."""


BOTH: tuple[Kernels, ...] = ("compiled", "few_passes")
GPU: tuple[Kernels, ...] = ("compiled",)
CPU: tuple[Kernels, ...] = ("few_passes",)

NORM_AND_QKV: dict[str, Kept] = {
    "input": Kept(lambda n: n.stream),
    "input norm": Kept(lambda n: (1 + n.centred) / n.sequence, fp32=True),
    # Split by modality, rows are copied after they were gathered; else the norm's output is read where it stands.
    "qkv input": Kept(lambda n: n.width if n.split_attention else n.stream, operand=True),
    # A norm of keys, or attention itself, holds a view of it.
    "qkv": Kept(lambda n: (n.query + 2 * n.key) / n.tensor if n.qk_norm or not n.split_attention else 0.0, GPU),
    "qkv (few passes)": Kept(lambda n: (n.query + 2 * n.key) / n.tensor if n.qk_norm else 0.0, CPU),
    # megatron-core copies queries out of their groups; those of one group, or one each, stand together.
    "queries": Kept(lambda n: n.query / n.tensor if n.qk_norm and n.tensor < n.groups < n.heads else 0.0),
    "query and key norms": Kept(lambda n: (n.heads + n.groups) / n.tensor if n.qk_norm else 0.0, fp32=True),
    "branch scale of attention": Kept(lambda n: n.stream if n.scaled else 0.0),
}
"""Up to queries, keys and values, and the residual behind attention."""

CORE: dict[str, Kept] = {
    "rotated queries": Kept(lambda n: n.query / n.tensor, GPU),
    "rotated keys": Kept(lambda n: n.context * n.key / n.tensor, GPU),
    # Gathered, or joined of both modalities, values are no view of qkv any more.
    "values": Kept(lambda n: n.context * n.key / n.tensor if n.split_attention or n.context > 1 else 0.0, GPU),
    "softmax sums": Kept(lambda n: n.heads / n.tensor, GPU, fp32=True),
}
"""Core attention beside its output. On CPUs it depends on documents: ``Rows.slots`` and ``Rows.pairs``."""

RECOMPUTED_CORE: dict[str, Kept] = {
    "queries to recompute from": Kept(lambda n: n.query / n.tensor),
    "keys to recompute from": Kept(lambda n: n.key / n.tensor),
    "values to recompute from": Kept(lambda n: n.key / n.tensor if n.split_attention else 0.0),
}
"""The same where attention alone is recomputed."""

OUT: dict[str, Kept] = {
    "attention": Kept(lambda n: n.query / n.tensor),
    # By modality its rows are copied; FlexAttention holds the original as well.
    "attention by modality": Kept(lambda n: n.query / n.tensor if n.split_attention else 0.0, GPU, operand=True),
}

MLP: dict[str, Kept] = {
    "middle": Kept(lambda n: n.stream),
    "middle norm": Kept(lambda n: (1 + n.centred) / n.sequence, fp32=True),
    "mlp input": Kept(lambda n: n.width if n.split_mlp else n.stream, operand=True),
    "gate and up": Kept(lambda n: n.gates * n.ffn / n.tensor),
    "activated gate": Kept(lambda n: n.ffn / n.tensor if n.gates == 2 else 0.0, CPU),
    "hidden": Kept(lambda n: n.ffn / n.tensor, operand=True),
    "branch scale of mlp": Kept(lambda n: n.stream if n.scaled else 0.0),
}

SPARSE_MLP: dict[str, Kept] = {
    "middle": Kept(lambda n: n.stream),
    "middle norm": Kept(lambda n: 1 / n.sequence, fp32=True),
    "router input": Kept(lambda n: n.stream),
    # Logits, their shares and what the choice keeps.
    "router": Kept(lambda n: (3 * n.experts + 4 * n.top_k) / n.sequence, fp32=True),
    "expert input": Kept(lambda n: n.top_k * n.stream, operand=True),
    "expert gate and up": Kept(lambda n: n.top_k * 2 * n.ffn / n.sequence),
    "expert activated gate": Kept(lambda n: n.top_k * n.ffn / n.sequence),
    "expert hidden": Kept(lambda n: n.top_k * n.ffn / n.sequence, GPU, operand=True),
    "answers": Kept(lambda n: n.top_k * n.stream),
}
"""Every token takes ``top_k`` experts; ranks that share them are taken to get as many rows as they send."""


@dataclass(frozen=True)
class Rows:
    """What of a microbatch decides how much attention keeps on a CPU; GPUs read ``tokens`` alone."""

    tokens: float
    slots: float = 0.0
    """Positions that attention computes, documents rounded up included."""
    pairs: float = 0.0
    """Probabilities of one head."""


def layer_bytes(layer: Layer, rows: Rows, value: int, kernels: Kernels, *, attention: bool = True) -> dict[str, float]:
    """Bytes that one layer keeps of one microbatch, tensor by tensor.

    value: bytes of a value of the model's dtype. attention: False where core attention is recomputed.
    """
    tables = [NORM_AND_QKV, CORE if attention else RECOMPUTED_CORE, OUT, SPARSE_MLP if layer.experts else MLP]
    eight_bits = layer.eight_bits and kernels == "compiled"
    found: dict[str, float] = {}
    for name, kept in (item for table in tables for item in table.items()):
        if kernels in kept.kernels:
            size = FP32 if kept.fp32 else 1 if eight_bits and kept.operand else value
            found[name] = rows.tokens * kept.values(layer) * size
    if kernels == "few_passes" and attention:
        found["queries, keys, values by document"] = 3 * rows.slots * layer.query / layer.tensor * value
        found["probabilities"] = rows.pairs * layer.heads / layer.tensor * value
    return {name: size for name, size in found.items() if size}


def backward_bytes(layer: Layer, tokens: float, value: int, kernels: Kernels) -> float:
    """Bytes beside the kept ones in the backward pass of a layer's MLP, where they are the most: gradients of the
    hidden rows beside the gate's, less the input that the product behind has let go of by then."""
    residual = tokens * (layer.width if layer.split_mlp else layer.stream)
    if not layer.experts:
        hidden = 1 if layer.gates == 1 else 2 if kernels == "compiled" else 3
        return (tokens * layer.ffn / layer.tensor * hidden + residual) * value
    rows = tokens * layer.top_k / layer.sequence
    # Answers have their gradient, and rows get theirs; the answers themselves are gone.
    if kernels == "compiled":
        return (rows * (layer.width + 4 * layer.ffn) + residual) * value
    # One expert after the other, with what is left of the one before.
    pieces = 4 + 3 * (layer.local_experts > 1)
    return (rows * (layer.width + pieces * layer.ffn / layer.local_experts) + residual) * value
