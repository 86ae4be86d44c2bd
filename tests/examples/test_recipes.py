"""Every recipe and every preset of the examples is a run that config check accepts; the papers' settings are theirs."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.recipe_file import run_of

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPES = ("digits", "emoji", "early_fusion", "late_fusion", "navil", "scaling")
COUNTS = {"early_fusion": 7, "late_fusion": 6, "navil": 9, "scaling": 15}
"""Presets of each recipe: P1's Table 6; NaViL's three stages on digits and for two models; three families."""


def load(name: str) -> ModuleType:
    """The recipe's module, found as a script is: with the folder it lies in on the path."""
    run_of(str(EXAMPLES / f"{name}.py"))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def path() -> Iterator[None]:
    """What recipes put on the module path goes with the test."""
    before = list(sys.path)
    yield
    sys.path[:] = before


def processes(run: RunConfig) -> int:
    return run.parallel.tensor * run.parallel.pipeline


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_no_fault(name: str) -> None:
    run = run_of(str(EXAMPLES / f"{name}.py"))
    assert check(run, processes(run)) == ()


@pytest.mark.parametrize("name", COUNTS)
def test_presets_have_no_fault(name: str) -> None:
    presets: dict[str, Callable[[], RunConfig]] = load(name).PRESETS
    assert len(presets) == COUNTS[name]
    for preset, recipe in presets.items():
        run = recipe()
        for copies in (1,) if preset.startswith("digits") or name == "scaling" else (1, 32):
            assert check(run, copies * processes(run)) == (), preset


@pytest.mark.parametrize("size", ["2b", "9b"])
def test_navils_rows_of_16384_tokens_are_shared_by_context_ranks(size: str) -> None:
    run: RunConfig = load("navil").PRESETS[f"{size}-s2"]()
    assert run.data.sequence_length == 16_384
    for context in (2, 4, 8):
        shared = replace(run, parallel=replace(run.parallel, context=context))
        assert check(shared, 8 * shared.parallel.of_copy) == ()


def test_the_stages_of_navil_unfreeze_as_in_the_paper() -> None:
    presets = load("navil").PRESETS
    frozen = {
        stage: {part for part, rate in vars(presets[f"2b-{stage}"]().optim.rates).items() if rate == 0}
        for stage in ("s1.1", "s1.2", "s2")
    }
    assert frozen["s1.1"] == {"attention", "ffn", "norms", "embeddings", "output"}
    assert frozen["s1.2"] == frozen["s1.1"] - {"attention"}
    assert frozen["s2"] == set()
    assert [presets[f"9b-{stage}"]().data.multi_scale for stage in ("s1.1", "s1.2", "s2")] == [False, True, True]
    assert presets["9b-s1.2"]().init.checkpoint == presets["9b-s1.1"]().folder
    assert presets["9b-s1.1"]().init.language_model and not presets["9b-s1.2"]().init.language_model


def test_a_stage_begins_where_the_one_before_it_ends() -> None:
    presets = load("navil").PRESETS
    for size in ("digits", "2b", "9b"):
        for before, after in (("s1.1", "s1.2"), ("s1.2", "s2")):
            earlier, later = presets[f"{size}-{before}"](), presets[f"{size}-{after}"]()
            assert later.init.checkpoint == earlier.folder
            assert later.model == earlier.model
