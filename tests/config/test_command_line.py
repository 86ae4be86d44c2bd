"""The command line: what it returns, prints and exits with; light, because it never imports torch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config import DataConfig, RunConfig, SourceConfig
from megatron_nmm.config.command_line import parse
from megatron_nmm.config.io import load, save

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], RunConfig]:
    """A recipe whose inputs exist, outside any torchrun."""
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    (tmp_path / "corpus" / "plan-1024").mkdir(parents=True)
    (tmp_path / "corpus" / "corpus.json").write_text("{}")
    source = SourceConfig(str(tmp_path / "corpus"))
    return lambda: RunConfig(data=DataConfig(train=(source,), tokenizer=str(tmp_path / "tokenizer.model")))


def refused(recipe: Callable[[], RunConfig], argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message on stderr of a command line that ends with exit code 2."""
    with pytest.raises(SystemExit) as exit_:
        parse(recipe, argv)
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_recipe_with_changes_is_returned(recipe: Callable[[], RunConfig]) -> None:
    assert parse(recipe, []) == recipe()
    assert parse(recipe, ["--set", "steps=5", "--set", "seed=2"]) == replace(recipe(), steps=5, seed=2)


def test_saved_run_replaces_the_recipe(recipe: Callable[[], RunConfig], tmp_path: Path) -> None:
    saved = replace(recipe(), steps=77, name="earlier")
    save(saved, tmp_path / "config.json")

    def never() -> RunConfig:
        raise AssertionError("--config replaces the recipe")

    assert parse(never, ["--config", str(tmp_path / "config.json")]) == saved
    changed = parse(never, ["--config", str(tmp_path / "config.json"), "--set", "steps=78"])
    assert changed == replace(saved, steps=78)


def test_a_preset_replaces_the_recipe(recipe: Callable[[], RunConfig]) -> None:
    presets = {"small": recipe, "large": lambda: replace(recipe(), steps=9, name="large")}
    assert parse(recipe, ["--preset", "large"], presets) == replace(recipe(), steps=9, name="large")
    assert parse(recipe, ["--preset", "large", "--set", "steps=10"], presets) == replace(
        recipe(), steps=10, name="large"
    )


def test_an_unknown_preset_names_the_nearest_and_all(
    recipe: Callable[[], RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(recipe, ["--preset", "larg"], {"small": recipe, "large": recipe})
    assert "use large; all are small, large" in capsys.readouterr().err
    assert "leave it out" in refused(recipe, ["--preset", "any"], capsys)


def test_a_preset_and_a_saved_run_exclude_each_other(recipe: Callable[[], RunConfig]) -> None:
    with pytest.raises(SystemExit):
        parse(recipe, ["--preset", "small", "--config", "run/config.json"], {"small": recipe})


def test_print_shows_a_file_that_loads_again(
    recipe: Callable[[], RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse(recipe, ["--print", "--set", "steps=0"]) is None  # printed although it may not start
    (tmp_path / "printed.json").write_text(capsys.readouterr().out)
    assert load(tmp_path / "printed.json") == replace(recipe(), steps=0)


def test_check_of_a_legal_run_sums_it_up(
    recipe: Callable[[], RunConfig], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    argv = ["--check", "--set", "parallel.tensor=2", "--set", "parallel.pipeline=2", "--set", "data.microbatch=2"]
    assert parse(recipe, argv) is None
    assert capsys.readouterr().out.splitlines() == [
        "ok: run on 8 processes = tensor 2 x pipeline 2 x data 2",
        "step: 8 packed rows of 1024 tokens = 2 microbatches of 2 on each data-parallel rank",
        "run: 1000 steps, 8,192,000 tokens, written to runs/run",
    ]


def test_without_world_size_one_copy_of_the_model(
    recipe: Callable[[], RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse(recipe, ["--check", "--set", "parallel.tensor=4", "--set", "parallel.pipeline=3"]) is None
    assert capsys.readouterr().out.startswith("ok: run on 12 processes = tensor 4 x pipeline 3 x data 1\n")


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_every_fault_of_values_and_files_at_once(
    recipe: Callable[[], RunConfig], check: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*check, "--set", "parallel.tensor=3", "--set", "steps=0", "--set", "data.tokenizer=gone.model"]
    lines = refused(recipe, argv, capsys).splitlines()
    assert lines[0] == "error: the run cannot start: 4 faults"
    assert [line.split()[1] for line in lines[1:]] == ["steps", "model.heads", "model.vocabulary", "data.tokenizer"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            ["--set", "parallel.tensr=2"],
            "error: --set: parallel.tensr is not a key; the nearest key is parallel.tensor",
        ),
        (["--config", "none.json"], "error: none.json cannot be read: No such file or directory"),
        (["--set", "parallel.tensor=-2"], "error: the run cannot start: parallel.tensor -2 is out of range"),
        (["--set"], "expected one argument"),
        (["--steps", "5"], "unrecognized arguments: --steps 5"),
        (["--che"], "unrecognized arguments: --che"),
    ],
)
def test_bad_command_line(
    recipe: Callable[[], RunConfig], argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(recipe, argv, capsys)


@pytest.mark.parametrize(
    ("world_size", "told"),
    [
        ("many", "WORLD_SIZE 'many' is not a number; unset it"),
        ("0", "the world size 0 is out of range"),
        ("3", "data.global_batch 8 is not divisible by data.microbatch 1 x data parallel size 3 = 3"),
    ],
)
def test_bad_world_size(
    recipe: Callable[[], RunConfig],
    world_size: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)
    assert told in refused(recipe, [], capsys)


def test_one_process_of_a_machine_speaks(
    recipe: Callable[[], RunConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert refused(recipe, ["--set", "steps=0"], capsys) == ""


SCRIPT = """
import sys
started_with = set(sys.modules)
import megatron_nmm.config.presets
import megatron_nmm.models.accounting
from megatron_nmm.config.command_line import parse
from megatron_nmm.config.schema import RunConfig

try:
    parse(RunConfig, sys.argv[1:])
finally:
    tops = {name.partition(".")[0] for name in set(sys.modules) - started_with}
    print("torch" in sys.modules, sorted(tops - sys.stdlib_module_names))
"""


def test_check_is_light_and_quick() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("WORLD_SIZE", None)
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "--check", "--set", "parallel.tensor=3"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    after = os.times()
    assert done.returncode == 2
    assert "model.heads 16 is not divisible by parallel.tensor 3; use parallel.tensor 1, 2, 4, 8 or 16" in done.stderr
    assert done.stdout == "False ['megatron_nmm']\n"
    # CPU time of the child, so that a busy machine does not fail the test.
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 2.0


def test_run_saved_by_one_process_starts_in_another(recipe: Callable[[], RunConfig], tmp_path: Path) -> None:
    save(replace(recipe(), steps=11), tmp_path / "config.json")
    script = "import sys\nfrom megatron_nmm.config.command_line import parse\nparse(None, sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", script, "--config", str(tmp_path / "config.json"), "--print", "--set", "seed=9"]
    printed = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert (json.loads(printed)["run"]["steps"], json.loads(printed)["run"]["seed"]) == (11, 9)
