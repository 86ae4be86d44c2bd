"""The model's part of the run configuration: decoder, vision encoder, sparse experts.

P1 is "Scaling Laws for Native Multimodal Models" (arXiv 2504.07951), NaViL is arXiv 2510.08565.
"""

from dataclasses import dataclass, field
from typing import Literal

ImageMask = Literal["bidirectional", "causal"]
Mlp = Literal["swiglu", "gelu"]
Norm = Literal["rms", "layer"]
Positions = Literal["rotary", "table"]
Connector = Literal["linear", "mlp", "pixel_shuffle"]
ModalityExperts = Literal["none", "ffn", "all"]
RouterScore = Literal["softmax", "sigmoid"]
BalanceOver = Literal["microbatch", "row"]


def rounded_ffn(width: int) -> int:
    """P1's SwiGLU hidden width (Table 6): 256 * ceil(floor(8 width / 3) / 256)."""
    return 256 * -(-(8 * width // 3) // 256)


@dataclass(frozen=True)
class VisionConfig:
    """How an image becomes decoder tokens: one axis, ``depth``, from early fusion (0) to late fusion and NaViL.

    At depth 0 one linear layer turns raw patches into tokens, and only ``patch`` and ``channels`` are read. Above it a
    bidirectional transformer of its own width runs over the patches of each view, and a connector ends it.
    """

    depth: int = 0
    """Transformer layers between the patches and the decoder; 0 = early fusion."""
    width: int = 384
    heads: int = 6
    ffn: int | None = None
    """Hidden width of the MLP; None = P1's rounding for SwiGLU, 4 x width for GELU."""
    mlp: Mlp = "swiglu"
    """SwiGLU without biases (P1), or GELU of two matrices (NaViL's released code)."""
    bias: bool = False
    """Biases on the output projection and the MLP (NaViL)."""
    qkv_bias: bool = False
    """Biases on queries, keys and values (InternViT-300M)."""
    norm: Norm = "rms"
    """RMSNorm, or LayerNorm with a bias (InternViT-300M); those of queries and keys are RMSNorms in any case."""
    qk_norm: bool = True
    """RMSNorm of each head's queries and keys."""
    layer_scale: float = 0.0
    """First value of the learnt scale on every branch (NaViL 0.1); 0 = no such scale."""
    final_norm: bool = True
    """A norm after the last layer; NaViL has none, its connector begins with a norm."""
    norm_epsilon: float = 1e-5
    rope_base: float = 10_000.0
    """Base of the two-dimensional RoPE: half of each head turns with the row, half with the column."""
    positions: Positions = "rotary"
    """How patches know their place: two-dimensional RoPE in every layer, or a learnt vector that is added to each
    before the first layer (InternViT)."""
    table_side: int = 0
    """Rows, and columns, of the table of such vectors; views of another grid have it interpolated bicubically."""
    class_token: bool = False
    """A learnt vector attends with the patches of each view, and no token is made of it (InternViT)."""
    window: int = 0
    """Side in patches of the squares that attend among themselves; 0 = every layer sees the whole view."""
    full_layers: tuple[int, ...] = ()
    """Layers (from 0) that see the whole view although ``window`` is set."""
    connector: Connector = "linear"
    """linear; mlp (two matrices, GELU); pixel_shuffle: 2 x 2 patches become one token (NaViL section 3)."""
    patch: int = 14
    """Side of a square patch in pixels."""
    channels: int = 3
    """Colour channels; decoders always deliver RGB."""

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened patch: channels x patch x patch."""
        return self.channels * self.patch * self.patch

    @property
    def ffn_width(self) -> int:
        """Hidden width of the MLP, worked out where it is not given."""
        if self.ffn is not None:
            return self.ffn
        return rounded_ffn(self.width) if self.mlp == "swiglu" else 4 * self.width

    @property
    def head_width(self) -> int:
        """Width of one attention head of the encoder."""
        return self.width // self.heads

    @property
    def table_rows(self) -> int:
        """Vectors of the table of positions; the class token's is the first."""
        return self.table_side**2 + self.class_token if self.positions == "table" else 0

    @property
    def class_unit(self) -> int:
        """Rows that the class token of a view takes in the encoder: as many as a decoder token is made of, so that
        ranks which share rows never cut one of those; all but one are padding."""
        return self.shuffle**2 if self.depth and self.class_token else 0

    @property
    def shuffle(self) -> int:
        """Side of the square of patches that becomes one decoder token."""
        return 2 if self.depth and self.connector == "pixel_shuffle" else 1


@dataclass(frozen=True)
class SparseConfig:
    """Sparse experts: a router sends each token to ``top_k`` of many MLPs, and drops none (P1 section 2)."""

    experts: int = 0
    """MLPs in a sparse layer; 0 = dense layers, and nothing else here is read."""
    top_k: int = 1
    """Experts that each token takes."""
    ffn: int | None = None
    """Hidden width of one expert; None = ``model.ffn``. Fine-grained: more and narrower ones, a larger top_k."""
    dense_layers: tuple[int, ...] = ()
    """Layers (from 0) that keep one MLP. P1 does not say which are sparse; its figures show the first and the last."""
    score: RouterScore = "softmax"
    """What makes scores of the router's logits: softmax over all experts, or a sigmoid of each."""
    normalise: bool = False
    """Divide the scores of a token's experts by their sum. With top_k 1 the weight is then 1, its gradient that of
    log score, and a dense checkpoint keeps its function (``init.checkpoint``)."""
    balance_loss: float = 0.01
    """Weight of the load-balance loss E sum_e f_e P_e (P1; Switch Transformer, arXiv 2101.03961, section 2.2)."""
    balance_over: BalanceOver = "microbatch"
    """Tokens that the balance loss looks at together: a microbatch, or each packed row alone, which makes it
    independent of how rows are cut into microbatches."""
    z_loss: float = 0.0
    """Weight of the mean squared log-sum-exp of the logits (ST-MoE, arXiv 2202.08906, section 3.1)."""
    bias_rate: float = 0.0
    """Step of the bias that steers each expert's load without a loss (arXiv 2408.15664); 0 = no bias."""


@dataclass(frozen=True)
class ModelConfig:
    """The decoder and what feeds it; the defaults are P1's smallest model (section 2 and Table 6)."""

    layers: int = 24
    width: int = 800
    heads: int = 16
    """Attention heads; P1 does not state them, so this stays a free choice."""
    query_groups: int | None = None
    """Key/value heads of grouped-query attention; None = one per attention head."""
    head_dim: int | None = None
    """Width of one head; None = width / heads. Some language models have wider ones (Qwen3-0.6B)."""
    ffn: int | None = None
    """Width of the SwiGLU hidden layer; None = P1's rule, 256 * ceil(floor(8 width / 3) / 256)."""
    modality_experts: ModalityExperts = "none"
    """Image tokens take weights of their own: in no layer; "ffn" in the MLP (P1's modality-aware baseline); "all" in
    attention projections, q/k-norms and the MLP, under one joint softmax (NaViL)."""
    special_embeddings: bool = False
    """Tokens that lay out images (line ends and the like) have a small embedding table of their own, which trains while
    the vocabulary's is frozen (NaViL's released code)."""
    vocabulary: int = 50_432
    """Rows of the embedding table; at least the tokenizer's size, divisible by ``parallel.tensor``."""
    tie_embeddings: bool = False
    """Share the input embedding with the output layer; P1 unties them."""
    qk_norm: bool = True
    norm_epsilon: float = 1e-5
    rope_base: float = 10_000.0
    image_mask: ImageMask = "bidirectional"
    """Attention among the tokens of one image: P1 bidirectional, NaViL causal."""
    init_std: float = 0.02
    sparse: SparseConfig = field(default_factory=SparseConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)

    @property
    def ffn_width(self) -> int:
        """SwiGLU hidden width: the given one, or P1's rounding (Table 6) when ``ffn`` is None."""
        return rounded_ffn(self.width) if self.ffn is None else self.ffn

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads if self.head_dim is None else self.head_dim

    @property
    def kv_heads(self) -> int:
        """Key/value heads: ``query_groups``, or one per attention head."""
        return self.heads if self.query_groups is None else self.query_groups

    @property
    def sparse_layers(self) -> tuple[int, ...]:
        """Layers (from 0) whose MLP is a set of sparse experts."""
        dense = self.sparse.dense_layers
        return tuple(layer for layer in range(self.layers) if layer not in dense) if self.sparse.experts else ()

    @property
    def expert_width(self) -> int:
        """Hidden width of one sparse expert."""
        return self.ffn_width if self.sparse.ffn is None else self.sparse.ffn
