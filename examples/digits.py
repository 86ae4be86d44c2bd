"""The quickstart's model: early fusion on handwritten digits, a few million parameters, two processes.

    torchrun --nproc-per-node 2 examples/digits.py                                  # tensor parallel 2
    torchrun --nproc-per-node 2 examples/digits.py --set parallel.tensor=1          # data parallel 2
    torchrun --nproc-per-node 2 examples/digits.py --set parallel.tensor=1 --set parallel.pipeline=2

The data is written by examples/data/digits.py and prepared with tools/ (examples/quickstart.sh shows each command).
Training learns from single digits with their names, from sums of two digits, and from sums in plain words.
"""

from megatron_nmm.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
    VisionConfig,
)
from megatron_nmm.train.main import main

DATA = "runs/digits/data"
"""Where quickstart.sh prepares the corpora."""
SEQUENCE_LENGTH = 260
"""Twenty sums of 13 tokens: an image of 32 x 32 pixels is four patches."""

MIXTURE = {"caption": 0.28, "interleaved": 0.7, "text": 0.02}
"""Share of each source, counted in packs."""


def sources(split: str) -> tuple[SourceConfig, ...]:
    """The three corpora of ``split`` ("train" or "held_out")."""
    return tuple(SourceConfig(corpus=f"{DATA}/{split}/{name}", weight=weight) for name, weight in MIXTURE.items())


def recipe() -> RunConfig:
    """Early fusion on handwritten digits: one complete run, any value of which ``--set`` changes."""
    return RunConfig(
        name="digits",
        folder="runs/digits/run",
        steps=400,
        model=ModelConfig(
            layers=4,
            width=192,
            heads=4,
            ffn=576,
            vocabulary=384,
            image_mask="bidirectional",
            vision=VisionConfig(patch=16),
        ),
        parallel=ParallelConfig(tensor=2),
        data=DataConfig(
            train=sources("train"),
            tokenizer=f"{DATA}/tokenizer.model",
            sequence_length=SEQUENCE_LENGTH,
            microbatch=4,
            global_batch=8,
            image_size=32,
            augment=False,  # a mirrored digit is no digit
            noise=0.1,
        ),
        optim=OptimConfig(learning_rate=2e-3),
        schedule=ScheduleConfig(warmup=50),
        evaluate=EvaluateConfig(every=100, sources=sources("held_out"), packs=16),
    )


if __name__ == "__main__":
    main(recipe)
