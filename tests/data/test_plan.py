"""A pack plan holds every sample that fits once, names the others, and belongs to one state of its corpus."""

import errno
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.plan import PackSettings, Plan, plan_folder, write_plan, write_plans
from megatron_nmm.data.plan_report import Packed
from megatron_nmm.data.tables import read_table
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.errors import DataError
from tests.data.corpora import corpus, mixed_records, quiet, record, settings, write_jsonl


def _samples(plan: Plan) -> list[int]:
    return [sample for number in range(len(plan)) for sample in plan.samples(number)]


def test_every_sample_once_and_no_pack_too_long(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", mixed_records(100), length=40)
    opened = Corpus(folder)
    plan = Plan(plan_folder(folder, 40), opened.fingerprint, 40)
    assert sorted(_samples(plan)) == list(range(100))
    rows = read_table(folder / "plan-40" / "plan.parquet").to_pylist()
    for number, row in enumerate(rows):
        assert row["samples"] == plan.samples(number)
        assert row["tokens"] == sum(len(opened.sample(sample).tokens) for sample in row["samples"]) <= 40
        assert row["patches"] == sum(4 * len(opened.sample(sample).images) for sample in row["samples"])
    report = plan.report
    assert report["packed"] == 100 and report["packs"] == len(rows) and report["rejected"] == 0
    assert report["lower_bound"] <= len(rows)
    assert report["fill"] == pytest.approx(sum(row["tokens"] for row in rows) / (40 * len(rows)), abs=1e-6)
    assert report["patches"]["max"] == max(row["patches"] for row in rows)
    assert report["samples_per_pack"]["mean"] == pytest.approx(100 / len(rows), abs=1e-3)
    assert report["samples_per_pack"]["max"] == max(len(row["samples"]) for row in rows)
    assert report["lower_bound"] <= report["proved_bound"] <= len(rows)
    assert report["above_proved_bound"] <= report["above_lower_bound"]


def test_the_patch_limit_holds(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", mixed_records(60), length=64)
    write_plan(folder, tmp_path / "plan", PackSettings(64, vision_patches=8))
    rows = read_table(tmp_path / "plan" / "plan.parquet").to_pylist()
    assert max(row["patches"] for row in rows) == 8
    assert max(row["tokens"] for row in rows) > 40


def test_same_seed_same_plan(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", mixed_records(60))
    for name, seed in (("a", 1), ("b", 1), ("other", 2)):
        write_plan(folder, tmp_path / name, PackSettings(32, seed=seed))
    content = {name: (tmp_path / name / "plan.parquet").read_bytes() for name in ("a", "b", "other")}
    assert content["a"] == content["b"] != content["other"]


def test_neighbours_of_the_corpus_are_spread(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", [record(n, "text", words=4) for n in range(200)], length=40)
    plan = Plan(folder / "plan-40", Corpus(folder).fingerprint, 40)
    neighbours = sum(
        1
        for n in range(len(plan))
        for a, b in zip(plan.samples(n), plan.samples(n)[1:], strict=False)
        if abs(a - b) == 1
    )
    assert neighbours < 10


def test_what_cannot_fit_is_named_with_its_remedy(tmp_path: Path) -> None:
    long, images = record(0, "text", words=200), record(1, "interleaved", ["image-0.png"] * 3)
    twice = [record(2, "text"), record(2, "text")]
    folder = corpus(tmp_path, "c", [long, images, *twice])
    report = write_plan(folder, tmp_path / "plan", PackSettings(32, vision_patches=8))
    rejected = read_table(tmp_path / "plan" / "rejected.parquet").to_pylist()
    assert [(row["id"], row["sample"]) for row in rejected] == [("text-0", 0), ("interleaved-1", 1), ("text-2", 3)]
    length = len(Corpus(folder).sample(0).tokens)
    assert f"{length} tokens do not fit a pack of 32; use --sequence-length {length} or more" in rejected[0]["reason"]
    assert "12 patches do not fit a pack of 8; use --vision-patches 12 or more" in rejected[1]["reason"]
    assert "the id stands earlier in the corpus already" in rejected[2]["reason"]
    assert (report["packed"], report["rejected"]) == (1, 3)


def test_a_corpus_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", [record(0, "text", words=20)], length=512)
    with pytest.raises(DataError, match=r"no sample of .* can be packed: \d+ tokens do not fit a pack of 8"):
        write_plan(folder, tmp_path / "plan", PackSettings(8))
    assert not (tmp_path / "plan").exists()


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    tokenise([write_jsonl(tmp_path / "e.jsonl", [])], tmp_path / "e", settings(tmp_path), quiet)
    assert len(Corpus(tmp_path / "e")) == 0
    with pytest.raises(DataError, match=r"the corpus holds no samples; look into its rejected\.parquet"):
        write_plan(tmp_path / "e", tmp_path / "e" / "plan-8", PackSettings(8))


def test_what_each_pack_holds_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = corpus(tmp_path, "c", mixed_records(60))
    rows = read_table(folder / "plan-32" / "plan.parquet").to_pylist()
    opened = Plan(folder / "plan-32", Corpus(folder).fingerprint, 32)
    tokens = opened.counts("tokens")
    assert tokens.tolist() == [row["tokens"] for row in rows]
    monkeypatch.setattr("megatron_nmm.data.plan.read_table", lambda *_: pytest.fail("the table is read again"))
    assert opened.counts("tokens") is tokens
    assert opened.counts("samples").tolist() == [len(row["samples"]) for row in rows]
    assert opened.counts("packs").tolist() == [1] * len(rows)


def test_a_plan_replaces_an_older_one(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", mixed_records(30))
    write_plan(folder, folder / "plan-32", PackSettings(32, seed=9))
    assert Plan(folder / "plan-32", Corpus(folder).fingerprint, 32).report["seed"] == 9
    assert not list(folder.glob("plan-32.*"))


def test_a_plan_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", mixed_records(30))
    fingerprint = Corpus(folder).fingerprint
    with pytest.raises(
        DataError, match=r"report\.json does not exist; make it with tools/pack\.py --sequence-length 64"
    ):
        Plan(folder / "plan-64", fingerprint, 64)
    with pytest.raises(DataError, match=r"has packs of 32 tokens but data\.sequence_length is 64; set"):
        Plan(folder / "plan-32", fingerprint, 64)
    more = write_jsonl(tmp_path / "more.jsonl", [record(999, "text")])
    tokenise([tmp_path / "c.jsonl", more], folder, settings(tmp_path, "c"), quiet)
    with pytest.raises(DataError, match=r"was made for another state of its corpus; make it with tools/pack\.py"):
        Plan(folder / "plan-32", Corpus(folder).fingerprint, 32)
    (folder / "plan-32" / "plan.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"plan\.parquet is damaged"):
        Plan(folder / "plan-32", fingerprint, 32)


def test_several_lengths_from_one_reading(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", mixed_records(30))
    plans = {folder / "plan-40": PackSettings(40), folder / "plan-64": PackSettings(64, 16)}
    told: list[tuple[str, int, int]] = []
    reports = write_plans(folder, plans, lambda *values: told.append(values))
    assert [report["sequence_length"] for report in reports.values()] == [40, 64]
    for length in (40, 64):
        assert sorted(_samples(Plan(folder / f"plan-{length}", Corpus(folder).fingerprint, length))) == list(range(30))
    assert [what for what, _, _ in told].count("reading") == 2
    assert ("packing 40", 30, 30) in told and told[-1] == ("packing 64", 30, 30)


@pytest.mark.parametrize("kind", ["text", "caption"])
def test_a_corpus_of_one_kind(tmp_path: Path, kind: str) -> None:
    images = ["image-0.png"] if kind == "caption" else []
    folder = corpus(tmp_path, "c", [record(n, kind, images) for n in range(20)], length=64)
    report = write_plan(folder, tmp_path / "plan", PackSettings(64, vision_patches=8))
    assert report["packed"] == 20
    assert report["patches"]["max"] == (8 if images else 0)


def _older(tmp_path: Path) -> tuple[Path, bytes]:
    folder = corpus(tmp_path, "c", mixed_records(30))
    return folder, (folder / "plan-32" / "plan.parquet").read_bytes()


def _intact(folder: Path, content: bytes) -> None:
    assert (folder / "plan-32" / "plan.parquet").read_bytes() == content
    assert sorted(path.name for path in folder.glob("plan-32*")) == ["plan-32"]


def test_a_full_disk_leaves_the_older_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, content = _older(tmp_path)

    def full(*values: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(DataError, match=r"plan-32 failed: No space left on device; make room or fix permissions"):
        write_plan(folder, folder / "plan-32", PackSettings(32, seed=5))
    _intact(folder, content)


def test_a_picture_that_fails_leaves_the_older_plan(tmp_path: Path) -> None:
    folder, content = _older(tmp_path)

    def full(path: Path, packed: Packed, title: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataError, match="No space left on device"):
        write_plans(folder, {folder / "plan-32": PackSettings(32, seed=5)}, draw=full)
    _intact(folder, content)


def test_an_older_plan_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, content = _older(tmp_path)
    rename = os.rename

    def refused(source: Path, target: Path) -> None:
        if source.name.endswith(".partial"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(DataError, match="Permission denied"):
        write_plan(folder, folder / "plan-32", PackSettings(32, seed=5))
    _intact(folder, content)


def test_a_torn_corpus_is_refused(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", mixed_records(30))
    path = folder / "shards" / "00000" / "samples.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"samples\.parquet is damaged"):
        write_plan(folder, folder / "plan-40", PackSettings(40))
    path.write_bytes(whole)
    pq.write_table(pq.read_table(path).slice(0, 29), path)
    with pytest.raises(DataError, match=r"has 29 samples where 30 were written; the corpus is torn: remove .*00000"):
        write_plan(folder, folder / "plan-40", PackSettings(40))
    shutil.rmtree(path.parent)
    with pytest.raises(DataError, match=r"samples\.parquet is missing"):
        write_plan(folder, folder / "plan-40", PackSettings(40))
    assert not (folder / "plan-40").exists()
