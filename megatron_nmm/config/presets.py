"""The papers' models as tables: P1's early and late fusion (Table 6), its sparse models (Table 13) and modality-aware
baseline, NaViL (its Table 6).

P1 is "Scaling Laws for Native Multimodal Models" (arXiv 2504.07951), NaViL is arXiv 2510.08565.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from megatron_nmm.config.schema_model import ModelConfig, SparseConfig, VisionConfig
from megatron_nmm.config.values import nearest_key
from megatron_nmm.errors import ConfigError


@dataclass(frozen=True)
class Size:
    """One row of P1's Table 6: only widths change. The label is the parameter count, embeddings included."""

    width: int
    heads: int
    """P1 does not state heads; 16 throughout, and 40 at width 5120 so that a head stays 128 wide."""
    learning_rate: float | None
    """Peak rate; None where P1 reports none."""


@dataclass(frozen=True)
class LateSize:
    """One row of late fusion: an encoder about half as wide as the decoder, both 24 layers deep."""

    width: int
    vision_width: int
    vision_heads: int
    """P1 states none: heads of 64, and 8 of 148 where 64 does not divide."""
    learning_rate: float


EARLY_FUSION: dict[str, Size] = {
    "0.275b": Size(800, 16, 1.5e-3),
    "0.464b": Size(1088, 16, 1.5e-3),
    "0.932b": Size(1632, 16, 5e-4),
    "1.627b": Size(2208, 16, 4.2e-4),
    "2.280b": Size(2624, 16, 4e-4),
    "3.354b": Size(3232, 16, 3.5e-4),
    "8.129b": Size(5120, 40, None),
}

LATE_FUSION: dict[str, LateSize] = {
    "0.289b": LateSize(768, 384, 6, 1.5e-3),
    "0.494b": LateSize(1024, 512, 8, 1.5e-3),
    "1b": LateSize(1536, 768, 12, 5e-4),
    "1.748b": LateSize(2048, 1024, 16, 4.2e-4),
    "2.430b": LateSize(2464, 1184, 8, 3.8e-4),
    "3.714b": LateSize(3072, 1536, 24, 3.3e-4),
}

MODALITY_AWARE = ("0.275b", "0.464b", "0.932b", "1.627b")
"""Early-fusion sizes at which P1 compares an MLP of its own for image tokens (Figure 11)."""


@dataclass(frozen=True)
class Sparse:
    """One row of P1's Table 13: experts in the place of every MLP."""

    experts: int
    top_k: int
    split: int = 1
    """How many times as wide as one expert the dense model's MLP is."""


SPARSE: dict[str, Sparse] = {
    "4e-top1": Sparse(4, 1),
    "8e-top1": Sparse(8, 1),
    "8e-top2": Sparse(8, 2),
    # P1 does not define "fine-grained". Here two experts of half the width are as large as one MLP, so that active
    # parameters are those of top-1; the total is then that of 4e-top1, beside which the paper's score stands.
    "8e-top2-fine": Sparse(8, 2, split=2),
}
"""The second is the model of P1's scaling laws (section 2)."""

NAVIL_VISION = VisionConfig(
    mlp="gelu",
    bias=True,
    qk_norm=False,
    layer_scale=0.1,
    final_norm=False,
    norm_epsilon=1e-6,
    connector="pixel_shuffle",
    patch=16,
)
"""What the encoders of both sizes share, as in the released code."""

NAVIL: dict[str, ModelConfig] = {
    # InternLM2-1.8B
    "2b": ModelConfig(
        layers=24,
        width=2048,
        heads=16,
        query_groups=8,
        ffn=8192,
        vocabulary=92_544,
        qk_norm=False,
        norm_epsilon=1e-5,
        rope_base=1e6,
        vision=replace(NAVIL_VISION, depth=24, width=1472, heads=23, ffn=5888),
    ),
    # Qwen3-8B
    "9b": ModelConfig(
        layers=36,
        width=4096,
        heads=32,
        query_groups=8,
        head_dim=128,
        ffn=12_288,
        vocabulary=151_936,
        norm_epsilon=1e-6,
        rope_base=1e6,
        vision=replace(NAVIL_VISION, depth=32, width=1792, heads=28, ffn=7168),
    ),
}
"""The language models NaViL starts from, with its encoders; ``navil`` adds the experts."""


def early_fusion(label: str) -> ModelConfig:
    """The model of one row, e.g. ``early_fusion("0.275b")``; ConfigError names the nearest label."""
    size = EARLY_FUSION[_known("early-fusion size", label, EARLY_FUSION)]
    return ModelConfig(layers=24, width=size.width, heads=size.heads, vocabulary=50_432)


def late_fusion(label: str) -> ModelConfig:
    """The model of one row, e.g. ``late_fusion("1.748b")``; P1 states no connector, so it is one matrix."""
    size = LATE_FUSION[_known("late-fusion size", label, LATE_FUSION)]
    vision = VisionConfig(depth=24, width=size.vision_width, heads=size.vision_heads)
    return ModelConfig(layers=24, width=size.width, heads=16, vocabulary=50_432, vision=vision)


def modality_aware(label: str) -> ModelConfig:
    """P1's baseline of that active size: one MLP for text and one for image tokens, attention shared."""
    return replace(early_fusion(_known("modality-aware size", label, MODALITY_AWARE)), modality_experts="ffn")


def sparse_early_fusion(label: str, variant: str = "8e-top1") -> ModelConfig:
    """P1's sparse model of that active size, or another of its variants: every layer sparse, no token dropped.

    P1 gives the weight of the balance loss, 0.01, and no z-loss; it trains sizes up to 1.627b.
    """
    model = early_fusion(label)
    row = SPARSE[_known("sparse variant", variant, SPARSE)]
    width = None if row.split == 1 else model.ffn_width // row.split
    return replace(model, sparse=SparseConfig(row.experts, row.top_k, width, balance_loss=0.01))


def navil(label: str) -> ModelConfig:
    """NaViL-2B (``2b``) or NaViL-9B (``9b``)."""
    model = NAVIL[_known("NaViL", label, NAVIL)]
    return replace(model, image_mask="causal", modality_experts="all", special_embeddings=True)


def learning_rate(label: str) -> float:
    """P1's peak learning rate for one early-fusion row, dense or sparse; ConfigError where P1 reports none."""
    rate = EARLY_FUSION[_known("early-fusion size", label, EARLY_FUSION)].learning_rate
    if rate is None:
        raise ConfigError(
            f"the paper behind the presets reports no learning rate for its {label} model; choose one, at most the "
            f"3.354b model's {EARLY_FUSION['3.354b'].learning_rate}"
        )
    return rate


def _known(what: str, label: str, labels: Mapping[str, object] | tuple[str, ...]) -> str:
    """``label`` in lower case; ConfigError when it is none of ``labels``."""
    if label.lower() not in labels:
        raise ConfigError(
            f"no {what} is called {label}; the nearest is {nearest_key(label, labels)}, all are {', '.join(labels)}"
        )
    return label.lower()
