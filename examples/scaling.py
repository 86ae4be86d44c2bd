"""The laptop study's models: early fusion, late fusion and sparse experts in five sizes, on digits and emoji.

    ./examples/scaling.sh                                          # the whole study, from data to report
    python examples/scaling.py --preset late-128 --set steps=200   # one model of it

Data come from examples/data/prepare_scaling.sh. Presets are FAMILY-WIDTH; as in P1 only widths change (section 2).
"""

from dataclasses import replace
from functools import partial

from megatron_nmm.config import (
    DataConfig,
    EvaluateConfig,
    JournalConfig,
    ModelConfig,
    OptimConfig,
    PrecisionConfig,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
    SparseConfig,
    VisionConfig,
)
from megatron_nmm.train.main import main

DATA = "runs/scaling/data"
"""Where scaling.sh prepares the corpora."""
MIXTURE = {"caption": 45.0, "interleaved": 45.0, "text": 10.0}
"""P1's shares of the three kinds (section 2), counted in tokens."""
WIDTHS = (32, 64, 96, 128, 192)
LAYERS = 4
VOCABULARY = 1088
"""The tokenizer's 1,024 pieces and room for what is added."""
HEAD = 32
RATE = 6e-3
"""Of the narrowest model. Mean held-out loss after 250 steps of early fusion, all that was tried:

| width | 5e-4  | 1e-3  | 2e-3  | 4e-3  | 8e-3  | 1.6e-2 |
|-------|-------|-------|-------|-------|-------|--------|
| 32    |       |       | 4.428 | 4.365 | 4.233 |        |
| 64    | 4.664 | 4.316 | 4.161 | 4.199 | 4.194 | 4.241  |
| 256   | 3.990 | 4.035 | 4.040 | 4.041 | 4.143 |        |
"""


def sources(split: str) -> tuple[SourceConfig, ...]:
    """The three corpora of ``split`` ("train" or "held_out")."""
    return tuple(SourceConfig(f"{DATA}/{split}/{name}", weight=weight) for name, weight in MIXTURE.items())


def early(width: int) -> ModelConfig:
    """Patches through one matrix into the decoder."""
    return ModelConfig(
        layers=LAYERS,
        width=width,
        heads=width // HEAD,
        ffn=3 * width,
        vocabulary=VOCABULARY,
        vision=VisionConfig(patch=8),
    )


def late(width: int) -> ModelConfig:
    """An encoder half as wide as the decoder and as deep, as in P1."""
    vision = VisionConfig(depth=LAYERS, width=width // 2, heads=max(1, width // 2 // HEAD), ffn=3 * width // 2, patch=8)
    return replace(early(width), vision=vision)


def sparse(width: int) -> ModelConfig:
    """Eight experts in the place of every MLP, one a token: P1's 8e-top1."""
    return replace(early(width), sparse=SparseConfig(experts=8, top_k=1, balance_loss=0.01))


MODELS = {"early": early, "late": late, "sparse": sparse}


def learning_rate(width: int) -> float:
    """The peak, which falls as the width grows, nearly as P1's does (Table 6)."""
    return RATE * WIDTHS[0] / width


def laptop_run(family: str, width: int) -> RunConfig:
    """One model of the study."""
    return RunConfig(
        name=f"{family}-{width}",
        folder=f"runs/scaling/{family}-{width}",
        steps=400,
        threads=1,
        model=MODELS[family](width),
        precision=PrecisionConfig("fp32"),
        data=DataConfig(
            train=sources("train"),
            tokenizer=f"{DATA}/tokenizer.model",
            share_of="tokens",
            sequence_length=256,
            microbatch=4,
            global_batch=4,
            image_size=32,
            augment=False,  # a mirrored digit is no digit
            noise=0.1,
        ),
        optim=OptimConfig(learning_rate=learning_rate(width)),
        schedule=ScheduleConfig(warmup=20),
        evaluate=EvaluateConfig(sources=sources("held_out"), packs=64),
        journal=JournalConfig(every=10, tensorboard=False, telemetry=0),
    )


def recipe() -> RunConfig:
    """The smallest early-fusion model of the study."""
    return laptop_run("early", WIDTHS[0])


PRESETS = {f"{family}-{width}": partial(laptop_run, family, width) for family in MODELS for width in WIDTHS}

if __name__ == "__main__":
    main(recipe, PRESETS)
