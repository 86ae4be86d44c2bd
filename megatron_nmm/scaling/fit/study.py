"""Every fit a manifest allows: each family, mixture, number of experts and kind of data for itself, never together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling.fit.encoder_rule import BestEncoder, Line, best_encoders, line
from megatron_nmm.scaling.fit.one import RESAMPLES, Report, check, fit
from megatron_nmm.scaling.fit.sparsity import SparseLaw, fit_sparse
from megatron_nmm.scaling.manifest import only, select
from megatron_nmm.scaling.point import AVERAGE, Point


@dataclass(frozen=True)
class Choice:
    """What to fit; None means each that is there."""

    family: str | None = None
    mixture: str | None = None
    kind: str | None = None
    experts: int | None = None
    keep_back: int = 1
    """Largest sizes foretold by a fit without them."""
    resamples: int = RESAMPLES
    seed: int = 0
    above: float | None = None
    """FLOPs below which runs are no part of the frontier; None leaves out the cheapest quarter of the range."""


@dataclass(frozen=True)
class Job:
    """A fit to make."""

    name: str
    points: tuple[Point, ...]
    kind: str


@dataclass(frozen=True)
class Encoders:
    """NaViL's rule on the runs of one family and mixture."""

    name: str
    best: tuple[BestEncoder, ...]
    line: Line | None
    """None with one LLM."""


Tell = Callable[[str, str, int, int], None]
"""Told (fit, stage, done, of how many)."""


def jobs(points: Sequence[Point], choice: Choice) -> tuple[list[Job], list[str]]:
    """(the fits to make, what is left out and why); raises ConfigError when nothing is left."""
    if not points:
        raise ConfigError("the manifest holds no run that can be used; its faults are named above, repair or run again")
    found: list[Job] = []
    left_out: list[str] = []
    for name, group in _groups(points, choice):
        kinds = [choice.kind] if choice.kind else _kinds(group)
        try:
            check(group)
            found += [Job(name, select(group, kind=kind), kind) for kind in kinds]
        except ConfigError as fault:
            left_out.append(f"{name}: {fault}")
    if not found:
        raise ConfigError("no fit is possible: " + "; ".join(left_out))
    return found, left_out


def make(found: Sequence[Job], choice: Choice, tell: Tell | None = None) -> Iterator[tuple[Job, Report]]:
    """The fits, one after the other."""
    for job in found:
        report = fit(
            job.points,
            job.kind,
            keep_back=choice.keep_back,
            resamples=choice.resamples,
            seed=choice.seed,
            above=choice.above,
            tell=_named(job, tell) if tell else None,
        )
        yield job, report


def encoders(points: Sequence[Point], choice: Choice) -> Iterator[Encoders]:
    """NaViL's rule wherever one LLM was trained with encoders of several sizes."""
    for name, group in _groups(points, choice):
        try:
            best = best_encoders(group, choice.kind or AVERAGE)
        except ConfigError:
            continue
        llms = [one.llm for one in best]
        yield Encoders(name, best, line(llms, [one.encoder for one in best]) if len(best) > 1 else None)


def sparse_laws(points: Sequence[Point], choice: Choice) -> Iterator[tuple[str, SparseLaw]]:
    """The sparsity-aware law of each mixture with enough sparsities."""
    for name, group in _groups(points, choice, by_experts=False):
        try:
            yield name, fit_sparse(group, choice.kind or AVERAGE, choice.seed)
        except ConfigError:
            continue


def _groups(
    points: Sequence[Point], choice: Choice, by_experts: bool = True
) -> Iterator[tuple[str, tuple[Point, ...]]]:
    """(name, runs) of each family and mixture, and of each number of experts and active experts."""
    for option in ("family", "mixture", "experts"):
        if getattr(choice, option) is not None:
            points = only(points, option, getattr(choice, option), f"--{option}")
    keys = dict.fromkeys(_key(point, by_experts) for point in points)
    for key in keys:
        family, mixture, experts = key
        name = f"{family} {mixture}{f', {experts}' if experts else ''}"
        yield name, tuple(point for point in points if _key(point, by_experts) == key)


def _key(point: Point, by_experts: bool) -> tuple[str, str, str]:
    experts = f"{point.top_k} of {point.experts}" if by_experts and point.experts > 1 else ""
    return point.family, point.mixture, experts


def _kinds(points: Sequence[Point]) -> list[str]:
    """The mean first, then each kind that every run was measured on."""
    shared = sorted(set.intersection(*(set(point.losses) for point in points)))
    whole = all(set(point.losses) == set(shared) for point in points)
    return ([AVERAGE] if whole and len(shared) != 1 else []) + shared


def _named(job: Job, tell: Tell) -> Callable[[str, int, int], None]:
    return lambda stage, done, total: tell(f"{job.name}, {job.kind}", stage, done, total)
