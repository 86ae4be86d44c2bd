"""A sample takes its bytes of text from all units, in proportion, and counts what it left out."""

from pathlib import Path

from megatron_nmm.data.raw.sample import KEPT, Drawn, sample_texts
from megatron_nmm.data.raw.units import plan_units
from tests.data.raw.files import captions, jsonl, tar


def _inputs(folder: Path) -> list[str]:
    """Two files of text, the second twice the first, and a tar whose bytes are not text."""
    (folder / "a.jsonl").write_bytes(jsonl(*({"text": f"a {number:07d}"} for number in range(1000))))
    (folder / "b.jsonl").write_bytes(jsonl(*({"text": f"b {number:07d}"} for number in range(2000))))
    (folder / "c.tar").write_bytes(tar(captions(20)))
    return [str(folder / name) for name in ("c.tar", "a.jsonl", "b.jsonl")]


def _draw(inputs: list[str], limit: int | None, unit_bytes: int = 3000) -> tuple[list[str], Drawn]:
    drawn = Drawn()
    return list(sample_texts(plan_units(inputs, unit_bytes), None, limit, drawn, lambda done, count: None)), drawn


def test_without_a_limit_all_text_is_taken(tmp_path: Path) -> None:
    texts, drawn = _draw(_inputs(tmp_path), None)
    assert len(texts) == 3020 and texts[0] == "thing 0"
    assert drawn == Drawn(3020, sum(map(len, texts)))


def test_a_limit_is_met_evenly(tmp_path: Path) -> None:
    texts, drawn = _draw(_inputs(tmp_path), 6000)
    assert abs(drawn.text_bytes - 6000) < 500 and drawn.text_bytes == sum(map(len, texts))
    share = {name: [int(text[2:]) for text in texts if text.startswith(name)] for name in ("a ", "b ")}
    assert 1.7 < len(share["b "]) / len(share["a "]) < 2.3
    # Evenly over the file: every tenth of it is there.
    assert {number // 200 for number in share["b "]} == set(range(10))


def test_progress_grows_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    units = plan_units(_inputs(tmp_path), 5000)
    list(sample_texts(units, None, None, Drawn(), lambda done, count: told.append((done, count))))
    assert told == sorted(told) and {1000, 2000, 3000} < {count for _, count in told}
    assert told[-1] == (sum(unit.bytes for unit in units), 3020)


def test_rejections_are_counted_and_the_first_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": "red"}) + b"{\n" * 50)
    texts, drawn = _draw([str(tmp_path / "a.jsonl")], None)
    assert texts == ["red"] and drawn.records == 51 and drawn.rejected == 50 and len(drawn.examples) == KEPT
