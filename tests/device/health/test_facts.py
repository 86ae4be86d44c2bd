"""What is gathered here is true, and an impostor is told without being imported."""

import os
import sys
from pathlib import Path

import pytest

from megatron_nmm.device.health import facts
from megatron_nmm.device.health.judge import judge


def test_this_machine_can_run_the_tests() -> None:
    found = facts.gather()
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.packages["megatron-core"] == "0.19.2"
    assert found.torch_error == "" and found.memory_gib > 0.5 and found.disk_free_gib > 0
    assert [finding for finding in judge(found) if finding.level == "fault"] == []


@pytest.mark.parametrize(("folder", "kind"), [("multi_tensor_apply", "nvidia"), ("lib", "other"), (None, "")])
def test_which_apex(folder: str | None, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if folder is not None:
        (tmp_path / "apex" / folder).mkdir(parents=True)
        (tmp_path / "apex" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert facts._apex() == kind


def test_a_command_that_hangs_or_fails_has_nothing_to_say() -> None:
    assert facts._ask(["false"]) == facts._ask(["no-such-command"]) == ""
