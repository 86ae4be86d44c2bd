"""A refusal is one message and exit code 2; under torchrun its report ends with the message."""

import time
from pathlib import Path

import pytest

from megatron_nmm.config import refusal
from megatron_nmm.config.refusal import FAULTY, refuse
from megatron_nmm.errors import ConfigError

ERROR = ConfigError("two lines:\n  1. of a fault")


def test_one_message_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert refuse(ERROR) == refuse(ERROR, speaks=False) == FAULTY == 2
    assert capsys.readouterr() == ("", f"error: {ERROR}\n")


def test_torchrun_reads_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    report = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(report))
    before = int(time.time())
    refuse(ERROR)
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=FAULTY, error_file=str(report))
    assert before <= failure.timestamp <= time.time()
    last = str(ChildFailedError("recipe.py", {0: failure})).splitlines()[-3:-1]
    assert last == ["  traceback : two lines:", "    1. of a fault"]


def test_the_silent_wait_for_torchrun_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setattr(refusal.time, "sleep", waited.append)
    assert refuse(ERROR, speaks=False) == FAULTY
    assert waited == [refusal.PATIENCE_S]
    assert capsys.readouterr() == ("", "") and not (tmp_path / "error.json").exists()


def test_a_report_that_cannot_be_written_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "error.json"))
    assert refuse(ERROR) == FAULTY
    assert capsys.readouterr().err == f"error: {ERROR}\n"
