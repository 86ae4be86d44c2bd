"""The line that says what trains: parts with their sizes, rates that differ, what is frozen, and whether at random."""

from dataclasses import replace

from megatron_nmm.config import OptimConfig, RunConfig
from megatron_nmm.config.schema import InitConfig, RatesConfig
from megatron_nmm.train.announce import training_line

SIZES = {"vision": 623_700_000, "connector": 12_600_000, "attention": 1_234_567_890, "norms": 98_304}


def _run(rates: RatesConfig, **init: str) -> RunConfig:
    return replace(RunConfig(), optim=OptimConfig(rates=rates), init=InitConfig(**init))


def test_everything_trains() -> None:
    line = "trains vision 624 M, connector 12.6 M, attention 1.23 B, norms 98.3 k"
    assert training_line(_run(RatesConfig()), SIZES) == line


def test_rates_and_frozen_parts() -> None:
    rates = RatesConfig(vision=0.1, attention=0.0, norms=0.0, ffn=0.0)
    line = "trains vision 624 M (learning rate x 0.1), connector 12.6 M; frozen: attention 1.23 B, norms 98.3 k"
    assert training_line(_run(rates, language_model="qwen"), SIZES) == line
    assert training_line(_run(rates, checkpoint="run"), SIZES) == line


def test_parts_frozen_as_drawn_are_pointed_out() -> None:
    line = training_line(_run(RatesConfig(attention=0.0)), SIZES)
    assert line.endswith(
        "frozen: attention 1.23 B (as drawn at random: init.checkpoint and init.language_model give trained weights)"
    )
