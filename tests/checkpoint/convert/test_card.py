"""The proof card: what was exported answers as what was trained, and one changed weight is noticed twice."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_nmm.checkpoint.convert import card
from megatron_nmm.checkpoint.convert.card import Card, Comparison
from megatron_nmm.checkpoint.convert.exported import OPENERS
from megatron_nmm.checkpoint.convert.to_hf import Exported, to_hf
from megatron_nmm.config import ModelConfig, RunConfig, VisionConfig
from megatron_nmm.errors import CheckpointError
from megatron_nmm.verify import layouts
from tests.checkpoint.convert.synthetic import checkpoint_of

STEM = VisionConfig(patch=8)
MODEL = ModelConfig(layers=2, width=32, heads=4, query_groups=2, ffn=48, vocabulary=128, vision=STEM)
TOOL = (sys.executable, "tools/convert_checkpoint.py")
WEIGHTS = "model.safetensors"


def _tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``out``, an export by the tool, of ``run``; what it said is in ``said``."""
    root = tmp_path_factory.mktemp("card")
    run = replace(layouts.toy(RunConfig()), model=MODEL)
    checkpoint_of(run, root / "run")
    done = _tool("to-hf", root / "run", root / "out", "--family", "qwen3", "--dtype", "bf16")
    assert done.returncode == 0, done.stderr
    (root / "said").write_text(done.stdout)
    return root


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """The export, to be damaged."""
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def test_the_tool_exports_proves_and_verifies(made: Path) -> None:
    said = (made / "said").read_text()
    assert "19 mapped, 0 missing, 0 unexpected, 2 of the image part left out" in said
    assert "greedy tokens" in said and "equal" in said and "3 files match the card" in said
    found = card.read(made / "out")
    assert found.files.keys() == {"config.json", WEIGHTS, card.ANSWERS} and found.family == "qwen3"
    (one,) = found.comparisons
    assert one.passes and one.relative < 1e-5 and one.largest > 0.1 and one.tokens == 12
    done = _tool("verify", made / "out")
    assert done.returncode == 0 and "3 files match the card" in done.stdout, done.stderr


def test_what_is_verified_again_is_the_same(out: Path) -> None:
    assert card.verify(out, OPENERS) == card.read(out)


def _flip(folder: Path) -> None:
    """One bit of one weight."""
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1001] ^= 0x40
    (folder / WEIGHTS).write_bytes(content)


def test_one_flipped_weight_fails_by_its_hash(out: Path) -> None:
    _flip(out)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has changed since the export"):
        card.verify(out, OPENERS)


def test_one_flipped_weight_fails_by_its_scores_when_the_hash_is_forged(out: Path) -> None:
    _flip(out)
    tree = json.loads((out / card.CARD).read_text())
    tree["files"] = card.hashes(out)
    (out / card.CARD).write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=r"is not the model that was trained: text: scores differ by"):
        card.verify(out, OPENERS)


def test_files_that_lack_or_came_later_are_named(out: Path) -> None:
    (out / "modeling.py").write_text("print('hello')")
    (out / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing; modeling\.py is not on its card"):
        card.verify(out, OPENERS)


@pytest.mark.parametrize("content", ["", "{}", '{"format": 9}', "[1]"])
def test_a_card_that_makes_no_sense_is_refused(content: str, out: Path) -> None:
    (out / card.CARD).write_text(content)
    with pytest.raises(CheckpointError, match=r"proof\.json cannot be read"):
        card.verify(out, OPENERS)


def test_scores_of_another_vocabulary_or_no_numbers_are_no_proof(out: Path) -> None:
    kept = load_file(out / card.ANSWERS)
    save_file({**kept, "0.text.scores": kept["0.text.scores"][:, :64].contiguous()}, out / card.ANSWERS)
    with pytest.raises(CheckpointError, match="another vocabulary"):
        card.compare(out, OPENERS["qwen3"](out))
    save_file({**kept, "0.text.scores": torch.full_like(kept["0.text.scores"], torch.nan)}, out / card.ANSWERS)
    assert not card.compare(out, OPENERS["qwen3"](out))[0].passes


def test_a_failed_proof_leaves_no_folder(made: Path, tmp_path: Path) -> None:
    wrong = Comparison("text", 12, 0, largest=1.0, difference=2e-5, greedy=True)

    def finish(folder: Path, exported: Exported) -> None:
        card.write(folder, Card("qwen3", 1, "stored", exported.mapped, card.hashes(folder), [wrong]))

    with pytest.raises(
        CheckpointError, match=r"text: scores differ by 2\.0e-05 of the largest, the same greedy tokens"
    ):
        to_hf(made / "run", tmp_path / "out", "qwen3", "stored", None, print, finish)
    assert list(tmp_path.iterdir()) == []
