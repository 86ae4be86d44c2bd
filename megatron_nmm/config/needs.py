"""Packages and GPUs outside the core install that a run asks for, found without importing them."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from megatron_nmm.config.fault import Fault
from megatron_nmm.config.recipes import GPUS, RECIPES, RecipeFacts, facts
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.versions import Version, installed, text

KEY = "precision.recipe"
TRANSFORMER_ENGINE = ("transformer-engine", "transformer-engine-torch")
"""Names that Transformer Engine is distributed under; both carry its version."""
ASK_GPU = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
WAIT_S = 5.0
"""Longest that the driver's tool may take to answer."""


@dataclass(frozen=True)
class Hardware:
    """What a recipe of 8 bits finds on a machine; None = not known, hence not judged."""

    transformer_engine: Version | None
    """None = not installed."""
    capability: Version | None = None
    toolkit: Version | None = None


def package_faults(run: RunConfig) -> Iterator[Fault]:
    """A fault for what sparse experts or a recipe of 8 bits on a GPU need and this machine lacks."""
    experts = run.model.sparse.experts
    if experts and find_spec("nmm_kernels") is None:
        fact = f"model.sparse.experts {experts} needs the package nmm_kernels, which is not installed"
        yield Fault("model.sparse.experts", fact, "install it with: pip install ./kernels (from the repository)")
    if run.device == "gpu" and facts(run.precision) and not run.precision.emulate:
        yield from recipe_faults(run, Hardware(installed(*TRANSFORMER_ENGINE), gpu_capability()))


def recipe_faults(run: RunConfig, found: Hardware) -> Iterator[Fault]:
    """What the recipe of ``run`` misses in ``found``; nothing of a plain or an emulated one."""
    row, name = facts(run.precision), run.precision.recipe
    if row is None or run.precision.emulate:
        return
    otherwise = "or use precision.emulate true (the same numbers, slowly)"
    wanted = f"precision.recipe {name} needs Transformer Engine {text(row.transformer_engine)} or newer"
    engine = found.transformer_engine
    if engine is None or engine < row.transformer_engine:
        has = "is not installed" if engine is None else f"is {text(engine)}"
        install = "pip install 'transformer-engine[pytorch]' in an environment with the GPU toolkit"
        yield Fault(KEY, f"{wanted}, which {has} here", f"{install}, {otherwise}")
    if found.capability is not None and not row.runs_on(found.capability):
        fact = f"precision.recipe {name} needs a GPU of {_gpus(row)}; this one has {text(found.capability)}"
        legal = [other for other, its in RECIPES.items() if its.runs_on(found.capability)]
        yield Fault(KEY, fact, f"use precision.recipe {' or '.join(legal) or 'plain'}, {otherwise}")
    if found.toolkit is not None and found.toolkit < row.toolkit:
        fact = (
            f"precision.recipe {name} needs torch for toolkit {text(row.toolkit)} or newer, not {text(found.toolkit)}"
        )
        yield Fault(KEY, fact, f"install such a torch, {otherwise}")


def gpu_capability() -> Version | None:
    """The lowest compute capability among this machine's GPUs, as the driver tells; None where it sees none."""
    if shutil.which(ASK_GPU[0]) is None:
        return None
    try:
        told = subprocess.run(ASK_GPU, capture_output=True, text=True, timeout=WAIT_S, check=True).stdout
        return min((tuple(map(int, line.split("."))) for line in told.split()), default=None)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _gpus(row: RecipeFacts) -> str:
    """``compute capability 8.9, Ada (L4, L40S), or newer``."""
    first = dict(GPUS).get(row.capability)
    named = f"compute capability {text(row.capability)}{f', {first},' if first else ''} or newer"
    return named if row.below is None else f"{named} and below {text(row.below)}"
