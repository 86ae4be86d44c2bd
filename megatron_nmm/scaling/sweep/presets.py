"""The papers' studies and the laptop's as tables: P1's 76 runs of one mixture, its 457 runs, NaViL's encoders and LLMs.

Models and rates are those of examples/. What the papers do not say is our reading and listed as such with each study.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_nmm.config import ParallelConfig, RunConfig
from megatron_nmm.config.presets import EARLY_FUSION, LATE_FUSION, MODALITY_AWARE, NAVIL, NAVIL_VISION
from megatron_nmm.config.recipe_file import run_of
from megatron_nmm.config.schema_model import ModelConfig
from megatron_nmm.scaling.point import Family
from megatron_nmm.scaling.sweep.design import Candidate, Design, Grid, Mixture

EXAMPLES = Path(__file__).parents[3] / "examples"

P1_KINDS = {"dfn": "caption", "coyo": "caption", "hqitp": "caption", "obelics": "interleaved", "dclm": "text"}
"""P1's Table 5."""

IMAGES_TO_TEXT = {(45, 45, 10): 1.19, (40, 20, 40): 0.65, (30, 30, 40): 0.59, (20, 40, 40): 0.49}
"""Percent of captions, interleaved documents and text -> image tokens to text tokens (P1's Table 3)."""
P1_MIXTURES: tuple[Mixture, ...] = tuple(
    Mixture(
        "-".join(map(str, shares)),
        dict(zip(("caption", "interleaved", "text"), shares, strict=True)),
        ratio / (1 + ratio),
    )
    for shares, ratio in IMAGES_TO_TEXT.items()
)
"""P1's four mixtures (section 3.3)."""

DENSE_TOKENS = (3e9, 4e9, 6e9, 10e9, 15e9, 20e9, 30e9, 50e9, 80e9, 120e9, 200e9, 300e9, 400e9)
"""13 lengths; our choice between the ends."""
SPARSE_TOKENS = (*DENSE_TOKENS[:-4], 100e9, 120e9, 160e9, 200e9, 250e9, 300e9, 350e9, 400e9, 500e9, 600e9)
"""19 lengths."""
FITTED = tuple(EARLY_FUSION)[:-1]
"""P1's early sizes but the hold-out."""
HELD_OUT = "8.129b"

P1_READINGS = (
    "P1 says: sizes, learning rates, warm-up and cooldown (Table 6, appendix A), four mixtures, 76 early-fusion models "
    "of each, 457 models in all, 2.5B to 600B tokens (Table 6; Figure 2 says 250M to 400B).",
    "Our reading: 457 = 4 x 76 early + 76 late + 76 sparse + 1 held-out model of 8.13B; the paper does not list them.",
    "Our reading: 76 dense = 6 sizes x 13 lengths, the two largest without the longest; 76 sparse = 4 sizes x 19.",
    "Our reading: lengths begin at 3B tokens. At 2.5B (1,192 steps) P1's warm-up of 1,000 steps and its cooldown of "
    "238 overlap, and below 1,000 steps its rule has nothing to say.",
    "Our reading: the 8.13B model sees 400B tokens at the rate of the next smaller one; P1 reports neither.",
)


def _p1_models(family: Family, sizes: tuple[str, ...]) -> tuple[Candidate, ...]:
    file = {"early": "early_fusion", "late": "late_fusion", "sparse": "moe"}[family]
    return tuple(Candidate(family, size, run_of(f"{EXAMPLES / file}.py:{size}")) for size in sizes)


def _dense(family: Family, sizes: tuple[str, ...], mixtures: tuple[Mixture, ...]) -> Grid:
    """76 runs of each mixture."""
    return Grid(
        _p1_models(family, sizes),
        DENSE_TOKENS,
        mixtures,
        without=frozenset((size, DENSE_TOKENS[-1]) for size in sizes[-2:]),
    )


def p1_mixture() -> Design:
    """The 76 early-fusion runs of P1's first mixture."""
    grid = _dense("early", FITTED, P1_MIXTURES[:1])
    return Design("p1-mixture", (grid,), P1_KINDS, readings=(P1_READINGS[0], *P1_READINGS[2:4]))


def p1() -> Design:
    """P1's 457 runs."""
    grids = (
        _dense("early", FITTED, P1_MIXTURES),
        _dense("late", tuple(LATE_FUSION), P1_MIXTURES[:1]),
        Grid(_p1_models("sparse", MODALITY_AWARE), SPARSE_TOKENS, P1_MIXTURES[:1]),
        Grid(_p1_models("early", (HELD_OUT,)), (DENSE_TOKENS[-1],), P1_MIXTURES[:1]),
    )
    return Design("p1", grids, P1_KINDS, readings=P1_READINGS)


@dataclass(frozen=True)
class _Encoder:
    """A vision encoder of NaViL's form, about 12 depth width^2 parameters."""

    depth: int
    width: int
    heads: int


ENCODERS: dict[str, _Encoder] = {
    "75m": _Encoder(24, 512, 8),
    "150m": _Encoder(21, 768, 12),
    "300m": _Encoder(24, 1024, 16),
    "600m": _Encoder(24, 1472, 23),
    "1200m": _Encoder(32, 1792, 28),
    "2400m": _Encoder(48, 2048, 32),
}
"""NaViL gives the third last and the last but one (Table 6); the others are ours, in its flat optimum of depths."""

LANGUAGE_MODELS: dict[str, ModelConfig] = {
    "0.5b": ModelConfig(
        layers=24, width=896, heads=14, query_groups=2, ffn=4864, vocabulary=151_936, qk_norm=False, rope_base=1e6,
        tie_embeddings=True,
    ),
    "1.8b": NAVIL["2b"],
    "7b": replace(NAVIL["2b"], layers=32, width=4096, heads=32, ffn=14_336),
}  # fmt: skip
"""Qwen2.5-0.5B's, InternLM2-1.8B's and InternLM2-7B's shapes."""

NAVIL_GRID: dict[str, tuple[str, ...]] = {
    "0.5b": ("75m", "150m", "300m", "600m"),
    "1.8b": ("150m", "300m", "600m", "1200m"),
    "7b": ("300m", "600m", "1200m", "2400m"),
}
"""Language model -> encoders, NaViL's Figure 6."""
NAVIL_IMAGES = (15e6, 30e6, 60e6, 120e6)
NAVIL_SAMPLE = 1078
"""Tokens of an image with its caption: 800 B tokens over 742 M samples (Tables 7 and 8)."""
NAVIL_IMAGE_SHARE = 0.95

NAVIL_READINGS = (
    "NaViL says: language models of 0.5B, 1.8B and 7B, encoders of 75M to 2.4B as in Figure 6, 15M to 120M images; "
    "rate 5e-5 constant after 200 steps, batches of 7,000 images (stage S1.1).",
    "Our reading: Qwen2.5-0.5B's, InternLM2-1.8B's and InternLM2-7B's shapes, depths and widths of the encoders, 1,078 "
    "tokens an image with its caption (the whole training's mean), 95 % of them image tokens; one epoch.",
    "A run's point is its state at the end of a constant rate, so that each branch is one step long.",
    "The rule for the best encoder divides by loss(75M), which Figure 6 has for 0.5B alone.",
)


def navil() -> Design:
    """NaViL's encoders for language models (section 2.4): 48 runs."""
    models = tuple(
        Candidate("navil", f"{language}+{encoder}", _navil_run(language, encoder))
        for language, encoders in NAVIL_GRID.items()
        for encoder in encoders
    )
    tokens = tuple(images * NAVIL_SAMPLE for images in NAVIL_IMAGES)
    mixture = Mixture("100-0-0", image_share=NAVIL_IMAGE_SHARE)
    grid = Grid(models, tokens, (mixture,))
    return Design("navil", (grid,), warmup=200, cooldown=0.0, readings=NAVIL_READINGS)


def _navil_run(language: str, encoder: str) -> RunConfig:
    of = ENCODERS[encoder]
    model = replace(
        LANGUAGE_MODELS[language],
        image_mask="causal",
        modality_experts="all",
        special_embeddings=True,
        vision=replace(NAVIL_VISION, depth=of.depth, width=of.width, heads=of.heads, ffn=4 * of.width),
    )
    stage = run_of(f"{EXAMPLES / 'navil'}.py:2b-s1.1")
    return replace(
        stage,
        model=model,
        parallel=ParallelConfig(distributed_optimizer=True, recompute="full"),
        # About 7,000 samples a step.
        data=replace(stage.data, global_batch=460, multi_scale=False),
    )


LAPTOP_TOKENS = (300_000, 600_000, 1_200_000, 2_400_000)
LAPTOP_WIDTHS = (32, 64, 96, 128, 192)


def laptop() -> Design:
    """Sixty models that two cores train in about half an hour (examples/scaling.sh)."""
    families: tuple[Family, ...] = ("early", "late", "sparse")
    models = tuple(
        Candidate(family, f"w{width}", run_of(f"{EXAMPLES / 'scaling'}.py:{family}-{width}"))
        for family in families
        for width in LAPTOP_WIDTHS
    )
    mixture = Mixture("45-45-10", {"caption": 45, "interleaved": 45, "text": 10}, 0.5)
    kinds = {kind: kind for kind in mixture.shares}
    return Design("laptop", (Grid(models, LAPTOP_TOKENS, (mixture,)),), kinds, warmup=20)


PRESETS: Mapping[str, Callable[[], Design]] = {
    "p1-mixture": p1_mixture,
    "p1": p1,
    "navil": navil,
    "laptop": laptop,
}
"""What ``--study`` takes by name."""
