"""A study's runs: constant-rate trunks, and the branches that cool down from their checkpoints."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_nmm.config import EvaluateConfig, InitConfig, RunConfig, SaveConfig, ScheduleConfig
from megatron_nmm.config.fault import config_error
from megatron_nmm.config.overrides import apply
from megatron_nmm.config.values import nearest_key
from megatron_nmm.config.warmup import warmup_steps
from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling.sweep.design import Candidate, Design, Grid, Mixture, require

OWNED = ("name", "folder", "steps", "seed", "schedule.", "save.at", "init.continue_from")
"""Keys whose values a study gives to each of its runs."""
SHOWN = 5
"""Faults that a message lists."""
SUFFIXES = ((1e12, "t"), (1e9, "b"), (1e6, "m"), (1e3, "k"), (1.0, ""))


@dataclass(frozen=True)
class Branch:
    """One point of the study: the end of a trunk's checkpoint, cooled down."""

    run: RunConfig
    start: int
    """The step of its trunk after which it goes its own way."""
    asked: float
    """Tokens as the study gives them."""


@dataclass(frozen=True)
class Trunk:
    """A constant-rate run, as long as the last of its branches needs it."""

    run: RunConfig
    study: str
    model: Candidate
    mixture: Mixture
    branches: tuple[Branch, ...]
    """Shortest first."""

    def checkpoint(self, branch: Branch) -> Path:
        """Where ``branch`` begins."""
        return Path(self.run.folder) / "checkpoints" / f"step-{branch.start:08d}"


def expand(study: Design, output: Path, changes: Sequence[str] = ()) -> tuple[Trunk, ...]:
    """All trunks of ``study`` with their branches, in the order of its grids; ``changes`` are --set of every run.

    Runs of one model, mixture and seed whose warm-up is equally long share a trunk. Raises ConfigError, with every
    fault, where the study makes no sense or a run is too short for its warm-up and cooldown.
    """
    require(study)
    if owned := [change for change in changes if change.split("=")[0].strip().startswith(OWNED)]:
        raise ConfigError(f"--set {owned[0]}: a study gives this to each run itself; change it in the study")
    faults: list[str] = []
    trunks = [
        trunk
        for grid in study.grids
        for model in grid.models
        for mixture in grid.mixtures
        for seed in grid.seeds
        for trunk in _trunks(study, grid, model, mixture, seed, output, changes, faults)
    ]
    names = [branch.run.name for trunk in trunks for branch in trunk.branches]
    faults += [f"run {name} stands in it twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise config_error(f"study {study.name}", [*faults[:SHOWN], *more])
    return tuple(trunks)


def cooldown_steps(study: Design, steps: int, warmup: int) -> int:
    """Steps that cool down in a run of ``steps``, by either of P1's definitions."""
    if study.cooldown_of == "training":
        return round(study.cooldown * steps)
    # A share c of the constant phase: warm-up + constant + c x constant = steps.
    return round(study.cooldown * (steps - warmup) / (1 + study.cooldown))


def short(tokens: float) -> str:
    """``2.5b`` of 2.5e9."""
    scale, suffix = next((pair for pair in SUFFIXES if tokens >= pair[0]), SUFFIXES[-1])
    return f"{tokens / scale:.4g}{suffix}"


def step_tokens(run: RunConfig) -> int:
    """Decoder positions of a step."""
    return run.data.global_batch * run.data.sequence_length


def _trunks(
    study: Design,
    grid: Grid,
    model: Candidate,
    mixture: Mixture,
    seed: int,
    output: Path,
    changes: Sequence[str],
    faults: list[str],
) -> Iterator[Trunk]:
    """Those of one model, mixture and seed, one for each length of warm-up."""
    name = f"{model.family}-{model.size}-{mixture.label}-s{seed}"
    base = replace(_mixed(apply(model.run, changes), study.kinds, mixture, faults), seed=seed)
    lengths: dict[int, list[tuple[int, float]]] = {}
    for tokens in sorted(grid.tokens):
        if (model.size, tokens) in grid.without:
            continue
        steps = round(tokens / step_tokens(base))
        warmup = warmup_steps(ScheduleConfig(warmup=study.warmup), steps, sparse=bool(base.model.sparse.experts))
        cooldown = cooldown_steps(study, steps, warmup)
        if steps - max(1, cooldown) < max(1, warmup):
            faults.append(
                f"{name} at {short(tokens)} tokens has {steps} steps, {cooldown} of them for the cooldown, and {warmup}"
                " for the warm-up; leave it out, use a shorter warm-up or smaller steps"
            )
            continue
        lengths.setdefault(warmup, []).append((steps, tokens))
    for warmup, runs in lengths.items():
        trunk = _trunk(replace(base, name=f"{name}-trunk-w{warmup}"), runs, warmup, study, output)
        branches = tuple(
            _branch(replace(base, name=f"{name}-{short(tokens)}"), trunk, steps, tokens, warmup, study, output)
            for steps, tokens in runs
        )
        yield Trunk(trunk, study.name, model, mixture, branches)


def _trunk(base: RunConfig, runs: Sequence[tuple[int, float]], warmup: int, study: Design, output: Path) -> RunConfig:
    starts = tuple(steps - max(1, cooldown_steps(study, steps, warmup)) for steps, _ in runs)
    return replace(
        base,
        folder=str(output / "runs" / base.name),
        steps=max(starts),
        schedule=replace(base.schedule, kind="constant", warmup=warmup),
        save=SaveConfig(every=base.save.every, keep=1, at=tuple(sorted(set(starts)))),
        evaluate=EvaluateConfig(),
    )


def _branch(
    base: RunConfig, trunk: RunConfig, steps: int, tokens: float, warmup: int, study: Design, output: Path
) -> Branch:
    cooldown = cooldown_steps(study, steps, warmup)
    start = steps - max(1, cooldown)
    schedule = replace(base.schedule, kind="constant", warmup=warmup)
    if cooldown:
        schedule = replace(schedule, kind="cooldown", cooldown=cooldown / steps)
    run = replace(
        base,
        folder=str(output / "runs" / base.name),
        steps=steps,
        schedule=schedule,
        save=replace(base.save, keep=1),
        init=InitConfig(continue_from=str(Path(trunk.folder) / "checkpoints" / f"step-{start:08d}")),
        evaluate=replace(base.evaluate, every=0),
    )
    return Branch(run, start, tokens)


def _mixed(run: RunConfig, kinds: Mapping[str, str], mixture: Mixture, faults: list[str]) -> RunConfig:
    """``run`` with the weights of its sources so that each kind has its share; within a kind they stay as they are."""
    if not mixture.shares:
        return run
    named = [(source, kinds.get(source.corpus.rpartition("/")[2], "")) for source in run.data.train]
    for source, kind in named:
        if kind not in mixture.shares:
            nearest = nearest_key(kind, mixture.shares) if kind else ", ".join(mixture.shares)
            faults.append(
                f"{run.name} reads {source.corpus}, of whose kind {kind!r} mixture {mixture.label} has no share; name "
                f"it in Design.kinds, as {nearest}"
            )
            return run
    whole = {kind: sum(source.weight for source, of in named if of == kind) for kind in mixture.shares}
    train = tuple(
        replace(source, weight=mixture.shares[kind] * source.weight / whole[kind])
        for source, kind in named
        if mixture.shares[kind]
    )
    return replace(run, data=replace(run.data, train=train, share_of="tokens"))


def only(trunks: Sequence[Trunk], filters: Sequence[str]) -> tuple[Trunk, ...]:
    """``trunks`` narrowed by ``filters``, each KEY=VALUE or KEY=VALUE,VALUE...; ConfigError when a filter fits none."""
    for text in filters:
        key, equals, values = text.partition("=")
        if not equals or key not in FILTERS:
            raise ConfigError(f"--only {text} is no filter; write KEY=VALUE with KEY one of {', '.join(FILTERS)}")
        wanted = set(values.split(","))
        there = sorted({FILTERS[key](trunk, branch) for trunk in trunks for branch in trunk.branches})
        if unknown := sorted(wanted - set(there)):
            listed = f"{key} {', '.join(unknown)}; there are {', '.join(there)}"
            raise ConfigError(f"--only {text}: no run has {listed}")
        narrowed = [_narrowed(one, [b for b in one.branches if FILTERS[key](one, b) in wanted]) for one in trunks]
        trunks = [trunk for trunk in narrowed if trunk.branches]
    return tuple(trunks)


def _narrowed(trunk: Trunk, branches: Sequence[Branch]) -> Trunk:
    """``trunk`` with some of its branches, as long as they need it."""
    starts = tuple(sorted({branch.start for branch in branches}))
    run = replace(trunk.run, steps=max(starts, default=0), save=replace(trunk.run.save, at=starts))
    return replace(trunk, run=run, branches=tuple(branches))


FILTERS: dict[str, Callable[[Trunk, Branch], str]] = {
    "family": lambda trunk, branch: trunk.model.family,
    "size": lambda trunk, branch: trunk.model.size,
    "mixture": lambda trunk, branch: trunk.mixture.label,
    "seed": lambda trunk, branch: str(trunk.run.seed),
    "tokens": lambda trunk, branch: short(branch.asked),
}
"""What ``--only`` may name."""
