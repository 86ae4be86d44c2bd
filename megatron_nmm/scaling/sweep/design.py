"""A scaling study as values: which models see how many tokens of which mixture, and how their learning rate runs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from megatron_nmm.config import RunConfig
from megatron_nmm.config.fault import config_error
from megatron_nmm.models.accounting import IMAGE_SHARE
from megatron_nmm.scaling.point import Family

CooldownOf = Literal["training", "constant"]

FEWEST = 2
"""Sizes, and token counts, below which a law has nothing to say of its N, or its D."""


@dataclass(frozen=True)
class Candidate:
    """One model of a study."""

    family: Family
    size: str
    """Label, such as "0.275b"; unique in its family."""
    run: RunConfig
    """All of its runs but their length, schedule, seed, folder and shares of data."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of data, counted in tokens."""

    label: str = "45-45-10"
    shares: Mapping[str, float] = field(default_factory=dict)
    """Kind -> percent; none = as the runs have them."""
    image_share: float = IMAGE_SHARE
    """Dv / D as expected; what runs cost before any is trained is worked out with it."""


@dataclass(frozen=True)
class Grid:
    """Every model at every number of tokens, of every mixture, with every seed."""

    models: tuple[Candidate, ...]
    tokens: tuple[float, ...]
    """Of a run, padding included: steps are these over the tokens of a step."""
    mixtures: tuple[Mixture, ...] = (Mixture(),)
    seeds: tuple[int, ...] = (1234,)
    without: frozenset[tuple[str, float]] = frozenset()
    """(size, tokens) that are left out."""


@dataclass(frozen=True)
class Design:
    """A whole study. P1's schedule (appendix A): warm-up, constant, cooldown."""

    name: str
    grids: tuple[Grid, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Corpus (last part of its folder) -> kind of data, which the shares of a mixture are of."""
    warmup: int | None = None
    """Steps of every run; None = P1's rule from the length of each run, which decides which runs share a trunk."""
    cooldown: float = 0.2
    """Share of a run that cools down; 0 = constant to the end (NaViL)."""
    cooldown_of: CooldownOf = "training"
    """What it is a share of: P1 says all of training in appendix A, the constant phase in section 3."""
    readings: tuple[str, ...] = ()
    """What is the paper's in it, and what is our reading where the paper is silent."""


def require(study: Design) -> None:
    """Raise ConfigError, with every fault, when a law could not be fitted to ``study`` or its runs are not distinct."""
    if faults := [*_faults(study)]:
        raise config_error(f"study {study.name}", faults)


def _faults(study: Design) -> Iterator[str]:
    if not study.name or not study.name.replace("-", "").replace("_", "").isalnum():
        yield f"name {study.name!r} cannot name files; use letters, digits, '-' and '_'"
    if not any(grid.models and grid.tokens for grid in study.grids):
        yield "it has no runs; give a Grid with models and tokens"
        return
    sizes: dict[str, dict[str, RunConfig]] = {}
    tokens: dict[str, set[float]] = {}
    for grid in study.grids:
        for model in grid.models:
            same = sizes.setdefault(model.family, {}).setdefault(model.size, model.run)
            if same != model.run:
                yield f"two models of family {model.family} are called {model.size}; give each a label of its own"
            tokens.setdefault(model.family, set()).update(grid.tokens)
    for family in sizes:
        yield from _too_few(family, "size", "model", sizes[family])
        yield from _too_few(family, "number of tokens", "run length", [f"{count:g}" for count in tokens[family]])


def _too_few(family: str, what: str, of: str, found: Iterable[str]) -> Iterator[str]:
    names = sorted(found)
    if len(names) < FEWEST:
        yield (
            f"family {family} has one {what} ({names[0]}), and a law's term in {of} needs several; add one (three or "
            "more tell its exponent)"
        )
