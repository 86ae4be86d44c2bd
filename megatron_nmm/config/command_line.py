"""The command line of every recipe: change values, start from a saved run, check or print instead of running."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from megatron_nmm.config.check import check, check_files
from megatron_nmm.config.fault import config_error
from megatron_nmm.config.io import load, to_json
from megatron_nmm.config.overrides import apply
from megatron_nmm.config.refusal import refuse
from megatron_nmm.config.schema import ParallelConfig, RunConfig
from megatron_nmm.config.values import nearest_key
from megatron_nmm.errors import ConfigError, NMMError

Recipe = Callable[[], RunConfig]


def parse(
    recipe: Recipe,
    argv: Sequence[str],
    presets: Mapping[str, Recipe] = MappingProxyType({}),
    notes: Sequence[Callable[[RunConfig], str]] = (),
) -> RunConfig | None:
    """The checked run that ``argv`` (without the program's name) asks for; None when there is nothing to run.

    ``presets`` are other recipes of the same program, which ``--preset NAME`` starts from in place of ``recipe``.
    ``--check`` and ``--print`` only report; each of ``notes`` has a line, or none, to add to what ``--check`` says.
    A run with faults ends the process with exit code 2 and one message on stderr, from the first process of each
    machine.
    """
    options = _parser(recipe, presets).parse_args(argv)
    try:
        run = apply(_start(recipe, presets, options), options.set)
        if options.print:
            print(to_json(run), end="")
        if options.print and not options.check:
            return None
        world_size = processes(run, os.environ)
        if faults := (*check(run, world_size), *check_files(run)):
            raise config_error("the run cannot start", faults)
    except NMMError as error:
        # The other processes of this machine were given the same and find the same.
        speaks = os.environ.get("LOCAL_RANK", "0") == "0"
        raise SystemExit(refuse(error, speaks=speaks)) from None
    if options.check:
        print("\n".join(filter(None, (summary(run, world_size), *(note(run) for note in notes)))))
        return None
    return run


def _start(recipe: Recipe, presets: Mapping[str, Recipe], options: argparse.Namespace) -> RunConfig:
    """The run before ``--set``: a saved one, a preset, or the recipe's own."""
    if options.config:
        return load(options.config)
    if options.preset is None:
        return recipe()
    if options.preset not in presets:
        remedy = (
            f"use {nearest_key(options.preset, presets)}; all are {', '.join(presets)}" if presets else "leave it out"
        )
        raise ConfigError(f"--preset {options.preset} is none of this recipe's presets; {remedy}")
    return presets[options.preset]()


def processes(run: RunConfig, environment: Mapping[str, str]) -> int:
    """World size: WORLD_SIZE as torchrun sets it, else one copy of the model. ConfigError when it is no number."""
    text = environment.get("WORLD_SIZE")
    if text is None:
        given = run.parallel
        sizes = (given.tensor, given.context, given.pipeline, given.expert)
        # A size that is no positive number is a fault of its own and must not become one of the world size.
        tensor, context, pipeline, expert = (size if isinstance(size, int) and size > 0 else 1 for size in sizes)
        return ParallelConfig(tensor=tensor, context=context, pipeline=pipeline, expert=expert).processes
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"WORLD_SIZE {text!r} is not a number; unset it or use the number of processes") from None


def require_launcher(run: RunConfig) -> None:
    """Raise ConfigError when one process was started for a layout of several: parse takes the layout's word for it."""
    parallel, needed = run.parallel, run.parallel.processes
    if needed > 1 and "WORLD_SIZE" not in os.environ:
        experts = f" (parallel.expert {parallel.expert})" if parallel.expert > 1 else ""
        sizes = " x ".join(f"parallel.{name} {size}" for name, size in parallel.shape.items())
        raise ConfigError(
            f"{sizes}{experts} needs {needed} "
            f"processes, this is one; start it with: torchrun --nproc-per-node {needed} {' '.join(sys.argv)}"
        )


def summary(run: RunConfig, world_size: int) -> str:
    """What a checked run will do, in three lines."""
    data, parallel = run.data, run.parallel
    data_size = world_size // parallel.of_copy
    microbatches = data.global_batch // (data.microbatch * data_size)
    tokens = run.steps * data.global_batch * data.sequence_length
    sizes = " x ".join(f"{name} {size}" for name, size in {**parallel.shape, "data": data_size}.items())
    return (
        f"ok: {run.name} on {world_size} processes = {sizes}\n"
        f"step: {data.global_batch} packed rows of {data.sequence_length} tokens = {microbatches} microbatches "
        f"of {data.microbatch} on each data-parallel rank\n"
        f"run: {run.steps} steps, {tokens:,} tokens, written to {run.folder}"
    )


def _parser(recipe: Recipe, presets: Mapping[str, Recipe]) -> argparse.ArgumentParser:
    """The options; abbreviations are off, so that a new option never changes an old command."""
    lines = (recipe.__doc__ or "Train a native multimodal model.").strip().splitlines()
    parser = argparse.ArgumentParser(
        description=lines[0],
        epilog="Every KEY with its meaning stands in megatron_nmm/config/schema.py; --print shows their values.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one value, e.g. parallel.tensor=2; may be repeated, the last one wins",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--config", metavar="FILE", help="start from a run's config.json in place of the recipe")
    names = ", ".join(presets) or "this recipe has none"
    start.add_argument("--preset", metavar="NAME", help=f"start from another recipe of this file: {names}")
    parser.add_argument("--check", action="store_true", help="report every fault with its remedy, then stop")
    parser.add_argument("--print", action="store_true", help="print the resolved configuration as JSON, then stop")
    return parser
