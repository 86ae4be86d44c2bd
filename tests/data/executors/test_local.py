"""Processes write the bytes that one process writes; one that dies is named with its work; Ctrl-C leaves nothing."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from megatron_nmm.data.executors.local import LocalExecutor, _share
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.errors import DataError
from tests.data.corpora import content, quiet, settings
from tests.data.executors.corpora_of_units import UNIT_BYTES, corpus_by, inputs


def new_children(before: set[int | None]) -> list[int]:
    """Processes this one has started since; other tests keep workers of their own alive."""
    return [child.pid for child in multiprocessing.active_children() if child.pid and child.pid not in before]


@pytest.fixture
def before() -> set[int | None]:
    """The processes that run before a test."""
    return {child.pid for child in multiprocessing.active_children()}


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, before: set[int | None]) -> None:
    here = corpus_by(tmp_path, "here", None)
    assert sum(name.endswith("shard.json") for name in here) > 4
    assert corpus_by(tmp_path, "three", LocalExecutor(3)) == here
    assert not new_children(before)


def test_a_worker_that_dies_is_reported_with_its_unit(tmp_path: Path, before: set[int | None]) -> None:
    def kill(done: int, total: int, samples: int) -> None:
        for child in new_children(before):
            os.kill(child, signal.SIGKILL)

    message = r"was killed by signal 9 .* while it worked on .*\.jsonl \[\d+:\d+\] \(shard 0000\d\); memory may have"
    with pytest.raises(DataError, match=message):
        tokenise(inputs(tmp_path), tmp_path / "out", settings(tmp_path), kill, LocalExecutor(2), UNIT_BYTES)
    assert not list((tmp_path / "out" / "shards").glob("*.partial"))
    tokenise(inputs(tmp_path), tmp_path / "out", settings(tmp_path), quiet, None, UNIT_BYTES)
    assert content(tmp_path / "out") == corpus_by(tmp_path, "whole", None)


def test_a_fault_in_a_worker_is_told_as_in_this_process(tmp_path: Path) -> None:
    paths = inputs(tmp_path)
    given = settings(tmp_path)
    given.tokenizer.path.write_bytes(b"another")
    # The workers open the tokenizer again; what they find is another one.
    with pytest.raises(DataError, match=r"worker process \d+ ended with code 1 while it worked on"):
        tokenise(paths, tmp_path / "out", given, quiet, LocalExecutor(2), UNIT_BYTES)
    given = settings(tmp_path)
    bad = tmp_path / "c.parquet"
    bad.write_bytes(b"PAR1 is not enough")
    with pytest.raises(DataError, match=r"c\.parquet"):
        tokenise([*paths, bad], tmp_path / "other", given, quiet, LocalExecutor(2), UNIT_BYTES)


class _Told:
    """A worker as far as sharing threads goes."""

    def __init__(self, job: object) -> None:
        self.job = job
        self.threads = 0

    def use(self, threads: int) -> None:
        self.threads = threads


@pytest.mark.parametrize(("busy", "shared"), [(3, [3, 2, 2]), (2, [4, 3]), (1, [7]), (0, [])])
def test_threads_of_idle_workers_go_to_the_others(busy: int, shared: list[int]) -> None:
    workers = [*(_Told("job") for _ in range(busy)), _Told(None)]
    _share(workers, 7)  # type: ignore[arg-type]
    assert [worker.threads for worker in workers] == [*shared, 0]
