"""What fed a step is told exactly: after a resume, a change of the mixture, for bad samples; or not at all."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config.io import save
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.data import ledger, quarantine
from megatron_nmm.data.blame import History
from megatron_nmm.data.ledger import Ledger, data_state
from megatron_nmm.data.plan import PackSettings, plan_folder, write_plan
from megatron_nmm.data.stream import stream
from megatron_nmm.errors import DataError
from megatron_nmm.files import step_lines
from tests.data.corpora import corpus, mixed_and_text, mixed_records, run_config
from tests.data.damage import own_images, rot

Rows = list[tuple[str, ...]]


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    """A run over two corpora, one with a rotten image; its folder is still empty."""
    mixed_and_text(tmp_path, own_images(tmp_path, 45))
    rot(tmp_path / "mixed", ["caption-4"])
    (tmp_path / "run").mkdir()
    run = run_config(tmp_path, [("mixed", 0.7), ("text", 0.3)])
    return replace(run, folder=str(tmp_path / "run"))


def _drive(run: RunConfig, after: int, last: int) -> dict[int, Rows]:
    """Read steps ``after + 1`` to ``last`` and note them as training does; the rows really delivered per step."""
    folder, delivered = Path(run.folder), {}
    save(run, folder / "config.json")
    notes = Ledger(folder)
    step_lines.truncate(folder / quarantine.NAME, after)
    with stream(run, 0, 1) as reading:
        consumed = after * run.data.global_batch
        phase, _ = notes.resume(after, consumed, data_state(run, reading.sources))
        reading.seek(consumed, phase)
        known = {quarantine.from_record(line).key for line in step_lines.read(folder / quarantine.NAME)}
        for step in range(after + 1, last + 1):
            delivered[step] = [row for batch in reading.next_step() for row in batch.sample_ids]
            notes.step(step, reading.consumed - 8, 8, reading.mixture.drawn(reading.consumed))
            for bad in reading.bad:
                if bad.key not in known:
                    known.add(bad.key)
                    step_lines.append(folder / quarantine.NAME, quarantine.to_record(bad, step))
    return delivered


def _told(run: RunConfig, steps: Sequence[int]) -> dict[int, Rows]:
    history = History(Path(run.folder))
    told: dict[int, Rows] = {}
    for step in steps:
        rows: dict[int, list[str]] = defaultdict(list)
        for fed in history.step(step):
            rows[fed.pack].append(fed.sample.id)
        told[step] = [tuple(rows[pack]) for pack in sorted(rows)]
    return told


def test_what_was_delivered_is_told(run: RunConfig) -> None:
    delivered = _drive(run, 0, 9)
    assert _told(run, range(1, 10)) == delivered
    assert "caption-4" not in {sample for rows in delivered.values() for row in rows for sample in row}


def test_a_crash_and_a_changed_mixture_are_no_obstacle(run: RunConfig) -> None:
    delivered = _drive(run, 0, 6)
    # The checkpoint was after step 4; the run goes on with other weights, then again with a third source.
    other = replace(run.data.train[0], weight=0.2)
    changed = replace(run, data=replace(run.data, train=(other, run.data.train[1])))
    delivered = {step: rows for step, rows in delivered.items() if step <= 4} | _drive(changed, 4, 7)
    third = corpus(Path(run.folder).parent, "third", mixed_records(30)[::3])
    grown = replace(changed, data=replace(changed.data, train=(*changed.data.train, replace(other, corpus=str(third)))))
    delivered |= _drive(grown, 7, 10)
    assert _told(grown, range(1, 11)) == delivered
    entries = ledger.read(Path(run.folder) / ledger.NAME)
    assert [(entry.step, entry.phase.first) for entry in entries.datas] == [(1, 0), (5, 32), (8, 56)]
    # Nothing is read again before the rest of its epoch.
    first_epoch = [row for step in range(1, 11) for row in delivered[step] if row and row[0].startswith("text-10")]
    assert len(first_epoch[:5]) == len(set(first_epoch[:5]))


def test_every_read_of_a_sample_is_found(run: RunConfig) -> None:
    delivered = _drive(run, 0, 12)
    history = History(Path(run.folder))
    for wanted in ("caption-4", "interleaved-5", "caption-1", "text-1003"):
        expected = [step for step, rows in delivered.items() for row in rows for sample in row if sample == wanted]
        reads = list(history.reads(wanted, lambda done, total: None))
        assert [fed.step for fed in reads] == expected
        assert all(fed.sample.id == wanted for fed in reads)
    stand_ins = [fed for step in delivered for fed in history.step(step) if fed.stands_for]
    assert stand_ins and {fed.stands_for for fed in stand_ins} == {"caption-4"}
    stand_in = stand_ins[0].sample.id
    assert "caption-4" in {fed.stands_for for fed in history.reads(stand_in, lambda done, total: None)}
    with pytest.raises(DataError, match=r"no source of .* packs a sample 'nobody'"):
        list(history.reads("nobody", lambda done, total: None))


def test_what_cannot_be_told_is_refused(run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ledger\.jsonl does not exist; give the folder of a run"):
        History(tmp_path / "run")
    _drive(run, 0, 3)
    with pytest.raises(DataError, match=r"does not hold step 4; it holds steps 1 to 3"):
        History(tmp_path / "run").step(4)
    write_plan(tmp_path / "text", plan_folder(tmp_path / "text", 32), PackSettings(32, seed=9))
    with pytest.raises(DataError, match=r"pack plan .*plan-32 has changed since it fed the steps from 1 on"):
        History(tmp_path / "run").step(1)
