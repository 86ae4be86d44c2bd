"""Relations between the values of one training run: its schedule, its optimizer, its names."""

from collections.abc import Iterator

from megatron_nmm.config.fault import Fault, use
from megatron_nmm.config.schema import RunConfig


def warmup_fits(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """The run is long enough to end its warm-up."""
    warmup = run.schedule.warmup
    if warmup is not None and warmup > run.steps:
        fact = f"schedule.warmup {warmup} is more than steps {run.steps}"
        yield Fault(
            "schedule.warmup", fact, use(("schedule.warmup", warmup, [run.steps]), ("steps", run.steps, [warmup]))
        )


def decay_shrinks(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A decoupled decay takes its share of every weight each step, so at 1 nothing is left."""
    decay = run.optim.weight_decay
    if run.optim.decoupled and decay >= 1:
        fact = f"optim.weight_decay {decay:g} with optim.decoupled true takes away the whole weight at every step"
        yield Fault("optim.weight_decay", fact, "use optim.weight_decay with a value below 1, e.g. 0.0001")


def name_is_a_word(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """The run's name labels plots and log folders, so it is one plain path component."""
    if not run.name.strip() or not run.name.isprintable() or "/" in run.name or run.name in (".", ".."):
        yield Fault("name", f"name {run.name!r} cannot label files", "use a name of letters, digits, '-', '_' and '.'")


def folder_is_named(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A run writes somewhere."""
    if not run.folder.strip() or "\0" in run.folder:
        yield Fault("folder", f"folder {run.folder!r} names no place", f"use folder runs/{run.name.strip() or 'run'}")
