"""Every way to lay a run out on a number of GPUs that ``check`` accepts; what is legal stands in config alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any, get_args, get_type_hints

from megatron_nmm.config.check import check, relations
from megatron_nmm.config.fault import Fault, divisors
from megatron_nmm.config.schema import DataConfig, ParallelConfig, RunConfig
from megatron_nmm.planner.gpus import NODE

CONTEXTS, ROUNDS, ROWS = (1, 2, 4, 8), (1, 2, 4), (1, 2, 4, 8)
"""Context sizes, pieces of a pipeline rank and rows of a microbatch that are tried."""
RECOMPUTE: tuple[Any, ...] = get_args(get_type_hints(ParallelConfig)["recompute"])
"""From the fastest to the smallest."""


@dataclass(frozen=True)
class Axis:
    """One key of the layout and the values that are tried."""

    key: str
    values: tuple[Any, ...]


def axes(run: RunConfig, gpus: int) -> tuple[Axis, ...]:
    """What is varied: tensor groups stay within a node, stages are planned."""
    model = run.model
    sizes: dict[str, Sequence[Any]] = {
        "parallel.tensor": [size for size in divisors(gpus) if size <= NODE],
        "parallel.pipeline": [size for size in divisors(gpus) if size <= model.layers],
        "parallel.context": CONTEXTS,
        "parallel.virtual_stages": ROUNDS,
        "parallel.expert": divisors(model.sparse.experts) if model.sparse_layers else (1,),
        "data.microbatch": sorted({*ROWS, run.data.microbatch}),
    }
    return tuple(Axis(key, tuple(values)) for key, values in sizes.items())


def families(run: RunConfig, gpus: int) -> Iterator[Iterator[RunConfig]]:
    """For every layout of a run without ``common_faults`` the runs that ``check`` finds without fault on ``gpus``
    processes, by what they recompute: the fastest mode first. They are checked as they are asked for; a family may turn
    out empty.

    Sequence parallelism goes with tensor parallelism and the optimizer is sharded: both save memory at no cost here.
    Data ranks talk while they compute where ``check`` lets them.
    """
    varied = axes(run, gpus)
    for values in product(*(axis.values for axis in varied)):
        changed = laid_out(run, {axis.key: value for axis, value in zip(varied, values, strict=True)})
        if _fits_at_a_glance(changed.parallel, gpus):
            yield _modes(changed, gpus)


def legal(run: RunConfig, gpus: int) -> Iterator[RunConfig]:
    """All runs of all families."""
    for family in families(run, gpus):
        yield from family


def _modes(run: RunConfig, gpus: int) -> Iterator[RunConfig]:
    """The legal ways to recompute in one layout."""
    for mode in RECOMPUTE:
        changed = replace(run, parallel=replace(run.parallel, recompute=mode))
        ways = (_overlapping(changed), changed)
        yield from islice((way for way in ways if not relations(replace(way, device="gpu"), gpus)), 1)


def laid_out(run: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """``run`` with these values of ``parallel.`` and ``data.`` keys."""
    of = {"parallel": {}, "data": {}}  # type: dict[str, dict[str, Any]]
    for key, value in values.items():
        group, _, name = key.partition(".")
        of[group][name] = value
    sequence = of["parallel"]["tensor"] > 1
    same: dict[str, Any] = {"stage_layers": (), "distributed_optimizer": True, "sequence": sequence}
    same |= {"overlap_gradients": False, "overlap_weights": False}
    parallel = replace(run.parallel, **{**same, **of["parallel"]})
    data: DataConfig = replace(run.data, **of["data"])
    return replace(run, parallel=parallel, data=data)


def _overlapping(run: RunConfig) -> RunConfig:
    """``run`` with gradients and weights on their way while ranks compute."""
    return replace(run, parallel=replace(run.parallel, overlap_gradients=True, overlap_weights=True))


def _fits_at_a_glance(parallel: ParallelConfig, gpus: int) -> bool:
    """Whether one copy of the model divides the GPUs: ``check`` asks that as well, at a hundred times the cost."""
    return gpus % parallel.processes == 0


def common_faults(run: RunConfig, gpus: int) -> list[Fault]:
    """Faults of ``run`` that every layout has: they are not about layouts."""
    simple = laid_out(run, {"parallel.tensor": 1, "parallel.pipeline": 1, "parallel.expert": 1, "data.microbatch": 1})
    alone = replace(simple, data=replace(simple.data, global_batch=gpus))
    return list(check(replace(alone, device="gpu"), gpus))


def changes(run: RunConfig, gpus: int) -> list[str]:
    """The ``KEY=VALUE`` of ``--set`` that lay ``run`` out as it is."""
    switches = ("recompute", "sequence", "distributed_optimizer", "overlap_gradients", "overlap_weights")
    keys = [axis.key for axis in axes(run, gpus)] + [f"parallel.{name}" for name in switches]
    found = []
    for key in keys:
        group, _, name = key.partition(".")
        value = getattr(getattr(run, group), name)
        found.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return [*found, "parallel.stage_layers=[]"]


def has_legal(run: RunConfig, gpus: int) -> bool:
    """Whether there is any; rows and recomputation make none legal that would not be so otherwise."""
    few = replace(run, data=replace(run.data, microbatch=1))
    return next(legal(few, gpus), None) is not None


def nearest_counts(run: RunConfig, gpus: int, reach: int = 64) -> list[int]:
    """The nearest numbers of GPUs below and above that have a legal layout, as far as ``reach`` away."""
    below = next((n for n in range(gpus - 1, max(0, gpus - reach), -1) if has_legal(run, n)), None)
    above = next((n for n in range(gpus + 1, gpus + reach) if has_legal(run, n)), None)
    return [n for n in (below, above) if n is not None]
