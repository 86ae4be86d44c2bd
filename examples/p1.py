"""Everything but the model in P1's training runs (arXiv 2504.07951, appendix A and Tables 5 and 6).

The corpora are P1's data sets, or stand-ins for them, tokenised and packed by tools/ into ``corpora/<name>`` with a
tokenizer of at most 50,432 pieces (P1's vocabulary, to 3 decimals of its parameter counts).
"""

from megatron_nmm.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    RatesConfig,
    RunConfig,
    SaveConfig,
    SourceConfig,
)

MIXTURE = {"dfn": 27.0, "coyo": 11.25, "hqitp": 6.75, "obelics": 45.0, "dclm": 10.0}
"""Table 5: percent of the tokens. HQITP is private; any captioned photographs can stand in."""
HELD_OUT = ("hqitp", "obelics", "dclm")
"""Captions, interleaved documents, text: their plain mean is P1's headline loss."""
STEPS = 100_000
"""200 B tokens; P1's runs go from 2.5 B to 600 B."""


def training(name: str, model: ModelConfig, learning_rate: float, rates: RatesConfig | None = None) -> RunConfig:
    """200 B tokens of P1's mixture in rows of 1,024, about 2 M tokens a step."""
    sources = tuple(SourceConfig(f"corpora/{corpus}", weight=share) for corpus, share in MIXTURE.items())
    return RunConfig(
        name=name,
        folder=f"runs/{name}",
        steps=STEPS,
        model=model,
        parallel=ParallelConfig(distributed_optimizer=True, recompute="full"),
        data=DataConfig(
            train=sources,
            share_of="tokens",
            tokenizer="corpora/tokenizer.json",
            sequence_length=1024,
            microbatch=4,
            global_batch=2048,
            image_size=224,
            workers=4,
        ),
        optim=OptimConfig(learning_rate=learning_rate, rates=rates or RatesConfig()),
        save=SaveConfig(every=1000),
        evaluate=EvaluateConfig(
            every=1000, sources=tuple(SourceConfig(f"corpora/held_out/{corpus}") for corpus in HELD_OUT), packs=2048
        ),
    )
