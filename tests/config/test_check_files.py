"""check_files: every input that is not there, with the tool that makes it."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config import DataConfig, EvaluateConfig, RunConfig, SourceConfig
from megatron_nmm.config.check import check_files


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    """A run whose tokenizer, two corpora and plans exist."""
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    for name in ("train", "held_out"):
        (tmp_path / name / "plan-1024").mkdir(parents=True)
        (tmp_path / name / "corpus.json").write_text("{}")
    return RunConfig(
        data=DataConfig(
            train=(SourceConfig(str(tmp_path / "train")),), tokenizer=str(tmp_path / "tokenizer.model"), image_size=14
        ),
        evaluate=EvaluateConfig(sources=(SourceConfig(str(tmp_path / "held_out")),)),
    )


def test_complete_inputs_have_no_fault(run: RunConfig, tmp_path: Path) -> None:
    assert check_files(run) == ()


def test_plan_named_in_the_run_replaces_the_one_beside_the_corpus(run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "train" / "plan-1024").rename(tmp_path / "elsewhere")
    assert [fault.key for fault in check_files(run)] == ["data.train.0.plan"]
    source = replace(run.data.train[0], plan=str(tmp_path / "elsewhere"))
    assert check_files(replace(run, data=replace(run.data, train=(source,)))) == ()


def test_defaults_name_what_a_run_needs() -> None:
    tokenizer, train = check_files(RunConfig())
    assert str(tokenizer).startswith("data.tokenizer is empty; train one with tools/train_tokenizer.py")
    assert str(train) == 'data.train is empty; name a corpus, e.g. --set \'data.train=[{"corpus": "data/corpus"}]\''


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (
            "tokenizer.model",
            ["data.tokenizer {}/tokenizer.model does not exist; train one with tools/train_tokenizer.py"],
        ),
        ("train", ["data.train.0.corpus {}/train is not a folder; write it with tools/tokenise.py"]),
        ("held_out", ["evaluate.sources.0.corpus {}/held_out is not a folder; write it with tools/tokenise.py"]),
        ("train/corpus.json", ["data.train.0.corpus {}/train has no corpus.json: it is no corpus, or its tokenising"]),
        (
            "train/plan-1024",
            ["the pack plan {}/train/plan-1024 does not exist; write it with tools/pack.py for data.sequence_length 1"],
        ),
    ],
)
def test_missing_input_names_its_tool(run: RunConfig, tmp_path: Path, lost: str, told: list[str]) -> None:
    (tmp_path / lost).rename(tmp_path / "moved away")
    found = [str(fault) for fault in check_files(run)]
    assert len(found) == len(told)
    for fault, start in zip(found, told, strict=True):
        assert fault.startswith(start.format(tmp_path))


def test_a_relative_path_is_told_with_its_start(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_files(replace(run, data=replace(run.data, tokenizer="tokenizer.model"))) == ()
    (fault,) = check_files(replace(run, data=replace(run.data, tokenizer="gone.model")))
    assert fault.fact == f"data.tokenizer gone.model (seen from {tmp_path}) does not exist"


def test_every_missing_input_at_once(run: RunConfig, tmp_path: Path) -> None:
    bad = replace(
        run,
        data=replace(run.data, tokenizer="", sequence_length=512, train=(*run.data.train, SourceConfig())),
        evaluate=EvaluateConfig(sources=(SourceConfig(str(tmp_path / "tokenizer.model")),)),
    )
    assert [fault.key for fault in check_files(bad)] == [
        "data.tokenizer",
        "data.train.0.plan",
        "data.train.1.corpus",
        "evaluate.sources.0.corpus",
    ]
