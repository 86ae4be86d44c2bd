"""NaViL (arXiv 2510.08565): an encoder from scratch, modality experts in every layer of a language model, three stages.

    ./examples/navil.sh                                                         # the three stages on handwritten digits
    torchrun --nproc-per-node 2 examples/navil.py                               # all at once, nothing frozen
    torchrun --nproc-per-node 2 examples/navil.py --preset digits-s1.2          # one stage, from the one before it
    python examples/navil.py --preset 2b-s1.1 --check --set data.tokenizer=...  # the paper's models: 2b and 9b

Stage S1.1 on digits begins with what examples/early_fusion.py has learnt, as the paper's with a language model.
"""

from dataclasses import dataclass, replace
from functools import partial

from digits import recipe as digits

from megatron_nmm.config import (
    DataConfig,
    EvaluateConfig,
    InitConfig,
    OptimConfig,
    ParallelConfig,
    RatesConfig,
    RunConfig,
    SaveConfig,
    ScheduleConfig,
    SourceConfig,
    VisionConfig,
)
from megatron_nmm.config.presets import navil
from megatron_nmm.train.main import main

DATA = "runs/navil/data"


@dataclass(frozen=True)
class Stage:
    """One training stage of NaViL (Tables 7 and 8)."""

    before: str
    """The stage whose checkpoint it begins with; empty = the language model."""
    rates: RatesConfig
    learning_rate: float
    schedule: ScheduleConfig
    weight_decay: float
    max_patches: int


TEXT_FROZEN = RatesConfig(attention=0, ffn=0, norms=0, embeddings=0, output=0)
CONSTANT, COSINE = ScheduleConfig(kind="constant", warmup=200), ScheduleConfig(kind="cosine", warmup=200)
STAGES = {
    "s1.1": Stage("", TEXT_FROZEN, 5e-5, CONSTANT, 0.05, 4_096),
    "s1.2": Stage("s1.1", replace(TEXT_FROZEN, attention=1), 5e-5, CONSTANT, 0.1, 12_288),
    "s2": Stage("s1.2", RatesConfig(), 2e-5, COSINE, 0.01, 24_576),
}


@dataclass(frozen=True)
class Size:
    """What of a stage depends on the model."""

    language_model: str
    """Hugging Face folder, as downloaded."""
    rows: int
    """Packed rows of 16,384 tokens a step. The paper counts samples; its total of 800 B (2B) and 450 B tokens (9B) over
    all steps makes about 350 and 310 such rows."""
    steps: dict[str, int]
    single_scale: tuple[str, ...] = ()
    """Stages without the pyramid."""


SIZES = {
    "2b": Size("models/internlm2-1_8b", 384, {"s1.1": 70_000, "s1.2": 40_000, "s2": 30_000}),
    "9b": Size("models/Qwen3-8B", 320, {"s1.1": 50_000, "s1.2": 33_000, "s2": 6_000}, single_scale=("s1.1",)),
}


def recipe() -> RunConfig:
    """NaViL's structure on handwritten digits, everything trained from scratch, two processes."""
    run = digits()
    vision = VisionConfig(
        depth=4,
        width=96,
        heads=3,  # does not divide by two: the encoder's images are spread over the tensor group, as in NaViL-2B
        mlp="gelu",
        bias=True,
        qk_norm=False,
        layer_scale=0.1,
        final_norm=False,
        connector="pixel_shuffle",
        patch=8,
    )
    model = replace(run.model, image_mask="causal", modality_experts="all", special_embeddings=True, vision=vision)
    return replace(
        run,
        name="navil",
        folder="runs/navil/run",
        model=model,
        data=replace(
            run.data,
            train=_sources(DATA, "train", run.data.train),
            tokenizer=f"{DATA}/tokenizer.model",
            sequence_length=460,
            image_rule="native",
            min_patches=4,
            max_patches=64,
            multi_scale=True,
        ),
        evaluate=replace(run.evaluate, sources=_sources(DATA, "held_out", run.evaluate.sources)),
    )


def on_digits(stage: str) -> RunConfig:
    """A stage of NaViL's recipe on handwritten digits: what trains is the paper's, rates and lengths are a laptop's."""
    run, of = recipe(), STAGES[stage]
    before = f"runs/navil/{of.before}" if of.before else "runs/early_fusion"
    return replace(
        run,
        name=f"navil-{stage}",
        folder=f"runs/navil/{stage}",
        steps=200,
        optim=replace(run.optim, rates=of.rates),
        schedule=replace(of.schedule, warmup=20),
        init=InitConfig(checkpoint=before),
    )


def paper(size: str, stage: str) -> RunConfig:
    """A stage of one of the paper's models."""
    this, of = SIZES[size], STAGES[stage]
    name = f"navil-{size}-{stage}"
    first = InitConfig(language_model=this.language_model)
    return RunConfig(
        name=name,
        folder=f"runs/{name}",
        steps=this.steps[stage],
        model=navil(size),
        parallel=ParallelConfig(tensor=2, distributed_optimizer=True, recompute="full"),
        data=DataConfig(
            train=(SourceConfig(f"corpora/navil/{stage}"),),
            tokenizer=this.language_model,
            sequence_length=16_384,
            global_batch=this.rows,
            image_rule="native",
            max_patches=of.max_patches,
            multi_scale=stage not in this.single_scale,
            augment=False,
            workers=4,
        ),
        optim=OptimConfig(
            learning_rate=of.learning_rate, beta2=0.95, weight_decay=of.weight_decay, decoupled=False, rates=of.rates
        ),
        schedule=of.schedule,
        init=InitConfig(checkpoint=f"runs/navil-{size}-{of.before}") if of.before else first,
        save=SaveConfig(every=1000),
        evaluate=EvaluateConfig(every=1000, sources=(SourceConfig("corpora/navil/held_out"),)),
    )


def _sources(data: str, split: str, like: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
    """The corpora of the same names and weights under another folder."""
    return tuple(replace(source, corpus=f"{data}/{split}/{source.corpus.rpartition('/')[2]}") for source in like)


PRESETS = {f"digits-{stage}": partial(on_digits, stage) for stage in STAGES} | {
    f"{size}-{stage}": partial(paper, size, stage) for size in SIZES for stage in STAGES
}

if __name__ == "__main__":
    main(recipe, PRESETS)
