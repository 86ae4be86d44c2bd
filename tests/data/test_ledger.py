"""The ledger says what fed each step, states the data where it changes, and continues after a crash."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config.schema import RunConfig
from megatron_nmm.data import ledger
from megatron_nmm.data.ledger import DataState, FedSource, Ledger, Phase, data_state, differences, file_sha256
from megatron_nmm.data.sources import open_sources, open_tokenizer
from megatron_nmm.errors import DataError
from megatron_nmm.files import step_lines
from tests.data.corpora import corpus, mixed_records, run_config

WEB = FedSource("web", "data/web", "a" * 64, "", "b" * 64, 100, 2.0, None)
BOOKS = FedSource("books", "data/books", "c" * 64, "", "d" * 64, 10, 1.0, 4.0)
STATE = DataState(7, 32, "packs", 1.0, (WEB, BOOKS))


def _steps(notes: Ledger, first: int, last: int, saved: int = 0) -> None:
    for step in range(first, last + 1):
        notes.step(step, 8 * (step - 1), 8, (5 * step, 3 * step) if step == saved else None)


def test_a_fresh_run_states_its_data_and_each_step(tmp_path: Path) -> None:
    notes = Ledger(tmp_path)
    assert notes.resume(0, 0, STATE) == (Phase(0, None), None)
    _steps(notes, 1, 3)
    entries = ledger.read(tmp_path / ledger.NAME)
    assert [(entry.step, entry.phase, entry.state) for entry in entries.datas] == [(1, Phase(0, None), STATE)]
    assert entries.packs_of(2) == range(8, 16)
    assert entries.data_of(3).state == STATE
    assert (tmp_path / ledger.NAME).read_text().splitlines()[1] == '{"step": 1, "first": 0, "packs": 8}'


def test_steps_taken_again_stand_once_and_unchanged_data_is_stated_once(tmp_path: Path) -> None:
    _steps(Ledger(tmp_path), 1, 0)
    notes = Ledger(tmp_path)
    notes.resume(0, 0, STATE)
    _steps(notes, 1, 5, saved=3)
    again = Ledger(tmp_path)
    assert again.resume(3, 24, STATE) == (Phase(0, None), None)
    _steps(again, 4, 6)
    entries = ledger.read(tmp_path / ledger.NAME)
    assert [record["step"] for record in entries.steps] == [1, 2, 3, 4, 5, 6]
    assert len(entries.datas) == 1


def test_a_changed_mixture_goes_on_from_what_was_drawn(tmp_path: Path) -> None:
    notes = Ledger(tmp_path)
    notes.resume(0, 0, STATE)
    _steps(notes, 1, 5, saved=3)
    new = FedSource("code", "data/code", "e" * 64, "", "f" * 64, 50, 1.0, None)
    changed = replace(STATE, sources=(new, replace(WEB, weight=1.0)))
    phase, remark = Ledger(tmp_path).resume(3, 24, changed)
    assert phase == Phase(24, (0, 15))
    assert remark is not None and remark.startswith("the data changed after step 3: ")
    assert "data/books left" in remark and "data/code joined with weight 1" in remark
    assert "data/web: weight 2.0 -> 1.0" in remark
    # The same again, and back to the first mixture from the checkpoint where it still held.
    assert Ledger(tmp_path).resume(3, 24, changed)[0] == phase
    assert Ledger(tmp_path).resume(3, 24, STATE) == (Phase(0, None), None)


def test_a_source_that_comes_back_goes_on_where_it_left(tmp_path: Path) -> None:
    notes = Ledger(tmp_path)
    notes.resume(0, 0, STATE)
    _steps(notes, 1, 3, saved=3)
    alone = Ledger(tmp_path)
    assert alone.resume(3, 24, replace(STATE, sources=(WEB,)))[0] == Phase(24, (15,))
    alone.step(4, 24, 8, (23,))
    assert Ledger(tmp_path).resume(4, 32, STATE)[0] == Phase(32, (23, 9))


def test_a_plan_made_anew_counts_from_nothing(tmp_path: Path) -> None:
    notes = Ledger(tmp_path)
    notes.resume(0, 0, STATE)
    _steps(notes, 1, 3, saved=3)
    repacked = replace(STATE, sources=(replace(WEB, plan_sha256="9" * 64), BOOKS))
    phase, remark = Ledger(tmp_path).resume(3, 24, repacked)
    assert phase == Phase(24, (0, 9))
    assert remark is not None and f"plan_sha256 {'b' * 12} -> {'9' * 12}" in remark


def test_moved_folders_change_nothing_but_are_stated(tmp_path: Path) -> None:
    notes = Ledger(tmp_path)
    notes.resume(0, 0, STATE)
    _steps(notes, 1, 3)
    moved = replace(STATE, sources=(replace(WEB, corpus="elsewhere/web"), BOOKS))
    assert Ledger(tmp_path).resume(3, 24, moved) == (Phase(0, None), None)
    entries = ledger.read(tmp_path / ledger.NAME)
    assert entries.data_of(3).state == STATE and entries.data_of(4).state == moved


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    phase, remark = Ledger(tmp_path).resume(3, 24, STATE)
    assert phase == Phase(0, None) and remark is not None and "does not say what fed the steps so far" in remark
    changed = replace(STATE, temperature=2.0)
    with pytest.raises(DataError, match=r"does not say what step 5 had drawn.*restore the ledger"):
        Ledger(tmp_path).resume(5, 40, changed)
    entries = ledger.read(tmp_path / ledger.NAME)
    with pytest.raises(DataError, match="does not hold step 9; it holds no step yet"):
        entries.packs_of(9)
    with pytest.raises(DataError, match="states no data configuration before step 3"):
        entries.data_of(3)
    step_lines.append(tmp_path / ledger.NAME, {"step": 4, "sources": [{"name": "x"}]})
    with pytest.raises(DataError, match=r"ledger\.jsonl has a damaged line for step 4"):
        ledger.read(tmp_path / ledger.NAME)


def test_lines_a_full_disk_refused_come_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Ledger(tmp_path)
    notes.resume(0, 0, STATE)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(step_lines, "append", full)
        for step in (1, 2):
            with pytest.raises(OSError, match="No space left"):
                _steps(notes, step, step)
    _steps(notes, 3, 3)
    assert [record["step"] for record in ledger.read(tmp_path / ledger.NAME).steps] == [1, 2, 3]


def test_differences_name_what_changed() -> None:
    assert differences(STATE, replace(STATE, share_of="tokens")) == ["share_of packs -> tokens"]
    assert differences(STATE, replace(STATE, sources=(BOOKS, WEB))) == ["the order of sources"]


def test_the_state_of_a_run_names_corpora_and_plans(tmp_path: Path) -> None:
    corpus(tmp_path, "mixed", mixed_records(12))
    run: RunConfig = run_config(tmp_path, [("mixed", 2.0)])
    sources = open_sources(run, run.data.train, open_tokenizer(run))
    state = data_state(run, sources)
    (fed,) = state.sources
    assert (fed.name, fed.corpus, fed.weight) == ("mixed", str(tmp_path / "mixed"), 2.0)
    assert (fed.fingerprint, fed.packs) == (sources[0].corpus.fingerprint, len(sources[0].plan))
    plan = tmp_path / "mixed" / "plan-32" / "plan.parquet"
    assert fed.plan_sha256 == file_sha256(plan)
    plan.write_bytes(plan.read_bytes() + b"x")
    assert data_state(run, sources) != state
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)"):
        file_sha256(tmp_path / "none")
