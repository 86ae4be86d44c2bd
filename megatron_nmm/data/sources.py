"""The packed corpora of a run, opened and checked against its configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_nmm.config import RunConfig, SourceConfig
from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.load import run_rule
from megatron_nmm.data.mixture import Mixture
from megatron_nmm.data.plan import Plan
from megatron_nmm.data.portions import portion
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """One packed corpus."""

    name: str
    corpus: Corpus
    plan: Plan


def open_sources(run: RunConfig, configs: Sequence[SourceConfig], tokenizer: Tokenizer) -> tuple[Source, ...]:
    """Open every source; DataError names what is missing, damaged or made for another tokenizer, rule or length."""
    rule = run_rule(run)
    opened = []
    for config in configs:
        corpus = Corpus(config.corpus)
        corpus.require(tokenizer, rule)
        plan = Plan(Path(config.plan_path(run.data.sequence_length)), corpus.fingerprint, run.data.sequence_length)
        opened.append((corpus, plan))
    names = _names([corpus.source for corpus, _ in opened])
    return tuple(Source(name, corpus, plan) for name, (corpus, plan) in zip(names, opened, strict=True))


def open_tokenizer(run: RunConfig) -> Tokenizer:
    """The run's tokenizer; raises ConfigError when the model has fewer embedding rows than it has pieces."""
    tokenizer = Tokenizer(run.data.tokenizer)
    if run.model.vocabulary < tokenizer.size:
        raise ConfigError(
            f"model.vocabulary {run.model.vocabulary} is smaller than the {tokenizer.size} pieces of tokenizer "
            f"{tokenizer.path}; set model.vocabulary={tokenizer.size} or more"
        )
    return tokenizer


def run_mixture(
    run: RunConfig, sources: Sequence[Source], start: int = 0, drawn: Sequence[int] | None = None
) -> Mixture:
    """The order of packs of a run over its opened training sources.

    A run that changed its mixture after ``start`` packs gives the packs ``drawn`` of each of ``sources`` by then.
    Raises ConfigError for weights or limits that make no mixture, and for a run longer than its limits allow.
    """
    data = run.data
    portions = [
        portion(source.name, config, source.plan, data.share_of)
        for source, config in zip(sources, data.train, strict=True)
    ]
    mixture = Mixture(portions, run.seed, data.temperature, start, drawn)
    mixture.require(run.steps * data.global_batch)
    return mixture


def _names(sources: Sequence[str]) -> list[str]:
    """The corpora's own names, numbered where two are equal: losses are reported under them."""
    return [
        f"{name}-{sources[:number].count(name) + 1}" if sources.count(name) > 1 else name
        for number, name in enumerate(sources)
    ]
