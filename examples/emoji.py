"""Early fusion on emoji with names in ten languages: captions in tars, pages in Parquet, text in compressed JSONL.

    python examples/emoji.py                                  # one process
    torchrun --nproc-per-node 2 examples/emoji.py --set parallel.tensor=2

The data is fetched by examples/data/emoji.py and prepared with tools/; examples/emoji.sh shows each command.
"""

from megatron_nmm.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
    VisionConfig,
)
from megatron_nmm.train.main import main

DATA = "runs/emoji/data"
"""Where emoji.sh prepares the corpora."""
MIXTURE = {"caption": 0.45, "interleaved": 0.45, "text": 0.10}
"""P1's shares of the three kinds (section 2), counted in tokens."""


def sources(split: str) -> tuple[SourceConfig, ...]:
    """The three corpora of ``split`` ("train" or "held_out")."""
    return tuple(SourceConfig(corpus=f"{DATA}/{split}/{name}", weight=weight) for name, weight in MIXTURE.items())


def recipe() -> RunConfig:
    """A few million parameters on images of 64 x 64 pixels, sixteen patches each."""
    return RunConfig(
        name="emoji",
        folder="runs/emoji/run",
        steps=100,
        model=ModelConfig(
            layers=6, width=256, heads=4, vocabulary=8192, image_mask="bidirectional", vision=VisionConfig(patch=16)
        ),
        data=DataConfig(
            train=sources("train"),
            tokenizer=f"{DATA}/tokenizer.model",
            share_of="tokens",
            sequence_length=512,
            microbatch=4,
            global_batch=8,
            image_size=64,
        ),
        optim=OptimConfig(learning_rate=1e-3),
        schedule=ScheduleConfig(warmup=10),
        evaluate=EvaluateConfig(sources=sources("held_out"), packs=8),
    )


if __name__ == "__main__":
    main(recipe)
