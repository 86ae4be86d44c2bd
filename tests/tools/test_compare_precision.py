"""tools/compare_precision.py reads finished runs, tells them apart and draws them; what is no run is refused."""

import json
from pathlib import Path

import pytest

from megatron_nmm.train import metrics
from tools import compare_precision

PRODUCTS = ["decoder.1.mlp.linear_fc1", "decoder.1.mlp.linear_fc2"]


def run(folder: Path, shift: float, *, casts: bool) -> Path:
    """A run of 40 steps whose loss is ``shift`` above another's."""
    records: list[dict[str, object]] = [
        {"event": "step", "step": step, "loss": 4 / step + 1 + shift} for step in range(1, 41)
    ]
    records.append({"event": "validation", "step": 40, "loss": 1.5 + shift})
    if casts:
        none = [0.0, 0.0]
        underflow = {"input": none, "weight": none, "gradient": [0.01, 0.25]}
        overflow = {"input": [0.002, 0.0], "weight": none, "gradient": none}
        records.append(
            {"event": "casts", "step": 40, "products": PRODUCTS, "underflow": underflow, "overflow": overflow}
        )
    folder.mkdir()
    (folder / metrics.NAME).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_runs_are_told_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run(tmp_path / "bf16", 0.0, casts=False), run(tmp_path / "mxfp8", 0.125, casts=True)]
    picture = tmp_path / "out/casts.png"
    assert compare_precision.main([*map(str, folders), "--output", str(picture)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "25% gradient of decoder.1.mlp.linear_fc2" in told and "0.2% input of decoder.1.mlp.linear_fc1" in told
    assert "1.5000" in told and "1.6250" in told
    assert picture.stat().st_size > 20_000


def test_the_distance_is_taken_step_by_step(tmp_path: Path) -> None:
    first, second = (
        compare_precision.read(run(tmp_path / name, shift, casts=False)) for name, shift in (("a", 0.0), ("b", 0.125))
    )
    assert all(apart == pytest.approx(0.125) for _, apart in compare_precision.distance(second, first))


def test_plain_runs_alone_are_drawn_without_maps(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    assert compare_precision.main([str(run(tmp_path / "a", 0.0, casts=False)), "--output", str(picture)]) == 0
    assert picture.exists()


@pytest.mark.parametrize("count", [1, 8])
def test_what_is_no_run_is_refused(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_precision.main([str(tmp_path)] * count) == 2
    told = capsys.readouterr().err
    assert ("holds no steps" if count == 1 else "give at most 7") in told
