"""Durable writes: a file is whole or the earlier one, nothing is left behind, and flushes come before names change."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.files import durable


def test_replace_writes_and_leaves_nothing_else(tmp_path: Path) -> None:
    for content in (b"first", b"", b"second"):
        durable.replace(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("refusing", ["fsync", "replace"])
def test_a_refusal_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusing: str) -> None:
    durable.replace(tmp_path / "a", b"first")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, refusing, full)
    with pytest.raises(OSError, match="No space left"):
        durable.replace(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a"]


def test_content_is_flushed_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def record(name: str, what: Callable[..., str]) -> None:
        real = getattr(os, name)

        def recorded(*arguments: Any) -> Any:
            events.append(f"{name} {what(*arguments)}")
            return real(*arguments)

        monkeypatch.setattr(os, name, recorded)

    record("fsync", lambda handle: Path(os.readlink(f"/proc/self/fd/{handle}")).name)
    record("replace", lambda source, target: f"{Path(source).name} > {Path(target).name}")
    durable.replace(tmp_path / "a", b"x")
    assert events == ["fsync .a.partial", "replace .a.partial > a", f"fsync {tmp_path.name}"]
    events.clear()
    durable.sync_files(tmp_path)
    assert events == ["fsync a", f"fsync {tmp_path.name}"]
