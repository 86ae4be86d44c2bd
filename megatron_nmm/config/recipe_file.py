"""The run of a recipe's Python file: tools take ``--recipe examples/digits.py`` as users write it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.values import nearest_key
from megatron_nmm.errors import ConfigError


def run_of(path: str) -> RunConfig:
    """What ``recipe()`` of the Python file ``path`` returns; ConfigError when there is none or it is no run.

    ``file.py:name`` takes the recipe called ``name`` in the file's PRESETS. The file is the user's own program and is
    run as such, like any script: it finds the modules beside it.
    """
    path, preset = _parted(path)
    module = _module(path, "recipe")
    recipe = getattr(module, "recipe", None) if preset is None else _preset(module, path, preset)
    if not callable(recipe):
        raise ConfigError(f"{path} has no function recipe(); define `def recipe() -> RunConfig` in it")
    run = recipe()
    if not isinstance(run, RunConfig):
        raise ConfigError(f"recipe() of {path} returns {type(run).__name__} {run!r}; let it return a RunConfig")
    return run


def value_of(path: str, function: str) -> object:
    """What ``function()`` of the Python file ``path`` returns; ConfigError when there is none. Runs the file, too."""
    found = getattr(_module(path, function), function, None)
    if not callable(found):
        raise ConfigError(f"{path} has no function {function}(); define it there")
    return found()


def _module(path: str, what: str) -> ModuleType:
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        fact = "does not exist" if not file.exists() else "is no Python file"
        raise ConfigError(f"{what} {path} {fact}; give the path of a .py file with a function {what}()")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, f"{path} has no Python loader"
    module = importlib.util.module_from_spec(spec)
    beside = str(file.resolve().parent)
    if beside not in sys.path:
        sys.path.insert(0, beside)
    spec.loader.exec_module(module)
    return module


def _parted(path: str) -> tuple[str, str | None]:
    """(file, name of a preset or None)."""
    file, found, preset = path.rpartition(".py:")
    return (f"{file}.py", preset) if found else (path, None)


def _preset(module: object, path: str, name: str) -> object:
    presets = getattr(module, "PRESETS", {})
    if name not in presets:
        remedy = f"use {nearest_key(name, presets)}; all are {', '.join(presets)}" if presets else "leave it out"
        raise ConfigError(f"{path} has no preset {name}; {remedy}")
    return presets[name]
