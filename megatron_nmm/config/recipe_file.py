"""Find the recipe in a Python file: tools take ``--recipe examples/digits.py`` as users write it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from megatron_nmm.config.schema import RunConfig
from megatron_nmm.errors import ConfigError


def recipe_of(path: str) -> Callable[[], RunConfig]:
    """The function ``recipe()`` of the file ``path``; raises ConfigError when there is none.

    The file is the user's own program and is run as such, like any script.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"recipe {path} does not exist; give the path of a Python file with a function recipe()")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, f"{path} has no Python loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe = getattr(module, "recipe", None)
    if not callable(recipe):
        raise ConfigError(f"{path} has no function recipe(); define `def recipe() -> RunConfig` in it")
    found: Callable[[], RunConfig] = recipe
    return found
