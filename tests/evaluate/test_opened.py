"""An export's folder is opened as a run's is, and answers alike; a damaged one is refused."""

from pathlib import Path

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import CheckpointError, ConfigError
from megatron_nmm.evaluate.opened import opened
from megatron_nmm.generate.contract import Answer, Decoding
from megatron_nmm.generate.export import ExportModel
from megatron_nmm.verify import compare
from megatron_nmm.verify.workers import WorkerPool
from tests.hf.conftest import prompts
from tests.hf.mapping import model_of, processor_of
from tests.hf.variants import run_of, write_tokenizer
from tools.generate import main

DECODING = Decoding(6, temperature=1.0, seed=2)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool) -> tuple[Path, list[Answer]]:
    """A folder, and the answers of the model that was written there."""
    folder = tmp_path_factory.mktemp("opened")
    tokenizer = write_tokenizer(folder)
    run: RunConfig = run_of("navil", tokenizer)
    model, processor = model_of(run, tokenizer, compare.initial_state(pool, run)), processor_of(run, tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, ExportModel(model, processor, tokenizer).answers(prompts(), DECODING)


def test_an_export_is_opened(export: tuple[Path, list[Answer]]) -> None:
    folder, expected = export
    with opened(folder, rows=3) as found:
        assert found.model.answers(prompts(), DECODING) == expected
        assert found.source == f"export {folder}" and found.is_main
    assert Tokenizer(folder).special == Tokenizer(folder / "tokenizer.json").special


def test_the_tool_answers_from_an_export(
    export: tuple[Path, list[Answer]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = export
    text, images = prompts()[1]
    (tmp_path / "a.png").write_bytes(images[0])
    drawn = ["--temperature", "1", "--seed", "2", "--new-tokens", "6"]
    # Draws go by the prompt's number, which is 0 here.
    assert main(["--model", str(folder), "--prompt", text, "--image", str(tmp_path / "a.png"), *drawn]) == 0
    out, errors = capsys.readouterr()
    with opened(folder) as found:
        (answer,) = found.model.answers([prompts()[1]], DECODING)
    assert out == f"{answer.text}\n"
    assert f"export {folder}" in errors and f"{len(answer.tokens)} tokens in" in errors
    assert main(["--model", str(folder), "--prompt", text]) == 2
    assert "prompt 0 has 1 <image> markers but 0 images" in capsys.readouterr().err


def test_what_cannot_be_opened_is_refused(
    export: tuple[Path, list[Answer]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = export
    with pytest.raises(ConfigError, match="one process answers from it as it is"), opened(folder, ["seed=1"]):
        pass
    with pytest.raises(ConfigError, match="is neither the folder of a run"), opened(tmp_path):
        pass
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cannot be loaded: .*; export the run again"), opened(tmp_path):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="leave out torchrun"), opened(folder):
        pass
