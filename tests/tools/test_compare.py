"""tools/compare.py matches contenders by counted FLOPs, trains them and tells what came out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config import EvaluateConfig, RunConfig
from megatron_nmm.config.io import save
from megatron_nmm.errors import ConfigError
from megatron_nmm.verify.workers import WorkerPool
from tests.train.runs import tiny_run, train_job
from tools import compare

RECIPE = """
from megatron_nmm.config import RunConfig
from megatron_nmm.config.io import load

def recipe() -> RunConfig:
    return load({config!r})
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of a tiny run."""
    folder = tmp_path_factory.mktemp("compare")
    save(tiny_run(folder), folder / "tiny.json")
    path = folder / "recipe.py"
    path.write_text(RECIPE.format(config=str(folder / "tiny.json")))
    return path


def test_contenders_are_trained_at_equal_flops_and_told(
    recipe: Path, tmp_path: Path, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[RunConfig] = []

    def in_the_pool(one: compare.Contender, processes: int) -> None:
        trained.append(one.run)
        pool.run(processes, train_job, one.run)

    monkeypatch.setattr(compare, "train", in_the_pool)
    contenders = [f"narrow={recipe}", f"wide={recipe} model.ffn=192"]
    assert compare.main([*contenders, "--output", str(tmp_path), "--processes", "1", "--flops", "2e8"]) == 0
    assert [run.name for run in trained] == ["narrow", "wide"]
    assert trained[0].steps > trained[1].steps > 1
    told = json.loads((tmp_path / "compare.json").read_text())
    for name, run in zip(("narrow", "wide"), trained, strict=True):
        assert abs(told[name]["flops"] - 2e8) <= told[name]["flops"] / run.steps
        assert len(told[name]["curve"]) >= 2 and told[name]["curve"][-1][0] == told[name]["flops"]
        assert told[name]["step_s"] > 0 and told[name]["memory"] > 1e6
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    assert "wide" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["recipe.py", "=recipe.py", "early="])
def test_a_contender_without_name_or_recipe_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"write NAME=RECIPE\.py"):
        compare.contender(text, tmp_path)


def test_a_change_that_is_no_key_is_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.ffn"):
        compare.contender(f"early={recipe} model.fnn=3", tmp_path)


def test_a_run_without_validation_cannot_be_compared(recipe: Path, tmp_path: Path, pool: WorkerPool) -> None:
    one = compare.contender(f"blind={recipe} steps=2", tmp_path)
    one = replace(one, run=replace(one.run, evaluate=EvaluateConfig()))
    pool.run(1, train_job, one.run)
    with pytest.raises(ConfigError, match=r"holds no validation; give the recipe evaluate\.sources"):
        compare.outcome(one)


def test_a_run_that_fails_ends_the_comparison(recipe: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)\n")
    one = replace(compare.contender(f"early={recipe}", tmp_path), recipe=str(broken))
    with pytest.raises(ConfigError, match="early ended with exit code"):
        compare.train(one, 1)
