"""A recipe's file gives a run, or one clear message."""

from pathlib import Path

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.config.recipe_file import run_of
from megatron_nmm.errors import ConfigError

GOOD = "from megatron_nmm.config import RunConfig\ndef recipe():\n    return RunConfig(steps=7)\n"


def test_the_run_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    assert run_of(str(tmp_path / "good.py")) == RunConfig(steps=7)


def test_a_preset_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD + "PRESETS = {'long': lambda: RunConfig(steps=9)}\n")
    assert run_of(f"{tmp_path / 'good.py'}:long") == RunConfig(steps=9)
    with pytest.raises(ConfigError, match=r"good\.py has no preset lang; use long; all are long"):
        run_of(f"{tmp_path / 'good.py'}:lang")
    (tmp_path / "plain.py").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"plain\.py has no preset long; leave it out"):
        run_of(f"{tmp_path / 'plain.py'}:long")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.py", None, r"none\.py does not exist; give the path of a \.py file"),
        ("README.md", "recipe", r"README\.md is no Python file; give the path of a \.py file"),
        ("empty.py", "", r"has no function recipe\(\); define"),
        ("value.py", "recipe = 3", r"has no function recipe\(\); define"),
        ("number.py", "def recipe():\n    return 3", r"returns int 3; let it return a RunConfig"),
    ],
)
def test_what_is_no_recipe(tmp_path: Path, name: str, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=told):
        run_of(str(tmp_path / name))
