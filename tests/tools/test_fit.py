"""tools/fit.py fits what a manifest holds, each family for itself, and checks the papers' numbers."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.scaling.fit import file as fit_file
from megatron_nmm.scaling.manifest import NAME, append
from megatron_nmm.scaling.papers.published import DENSE, MOE
from megatron_nmm.scaling.point import Point
from tests.scaling.points import grid, point
from tools import fit


def study(folder: Path, *points: Point) -> Path:
    for one in points:
        append(folder / NAME, one)
    return folder


def test_each_family_and_kind_is_fitted_for_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = []
    for family, law, experts in (("early", DENSE, 1), ("sparse", MOE, 8)):
        for one in grid(law, tokens=(5e9, 4e10, 3e11), experts=experts, family=family):
            losses = {"text": one.loss(), "caption": 0.9 * one.loss()}
            points.append(replace(one, run=f"{family}-{one.run}", losses=losses))
    study(tmp_path, *points)
    with (tmp_path / NAME).open("a") as file:
        file.write('{"run": "cut"')
    assert fit.main(["--study", str(tmp_path), "--bootstrap", "4"]) == 0
    shown = capsys.readouterr().out
    assert "left out line 37: cut short by a writer that was killed" in shown
    assert "early 45-45-10, avg: 18 runs, 6 sizes x about 3 token counts" in shown
    assert "sparse 45-45-10, 1 of 8, avg" in shown and max(map(len, shown.splitlines())) <= 100
    fits = fit_file.read(tmp_path)
    assert [(one.family, one.kind) for one in fits] == [
        (family, kind) for family in ("early", "sparse") for kind in ("avg", "caption", "text")
    ]
    assert fits[2].law.alpha == pytest.approx(0.301, rel=1e-3)
    assert fits[5].law.alpha == pytest.approx(0.710, rel=1e-3)


def test_one_fit_is_chosen_and_too_few_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = [point(f"late-{n}", {"text": 3.0 - n / 10}, family="late", active=n * 1e9, total=n * 1e9) for n in (1, 2)]
    study(tmp_path, *grid(MOE, tokens=(5e9, 4e10, 3e11)), *late)
    options = ["--study", str(tmp_path / NAME), "--bootstrap", "3", "--kind", "text"]
    assert fit.main(options) == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "not fitted late 45-45-10: 2 runs are too few for five coefficients; train at least 8" in shown
    assert [one.family for one in fit_file.read(tmp_path)] == ["early"]
    assert fit.main([*options, "--family", "late"]) == 2
    assert "no fit is possible: late 45-45-10: 2 runs are too few" in capsys.readouterr().err
    assert fit.main([*options, "--mixture", "1-2-97"]) == 2
    assert "no run has mixture '1-2-97'; --mixture may be 45-45-10" in capsys.readouterr().err
    assert fit.main([*options[:-1], "speech"]) == 2
    assert "18 of 18 runs have no loss on 'speech'" in capsys.readouterr().err


def test_a_study_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit.main(["--study", str(tmp_path)]) == 2
    assert "does not exist; tools/sweep.py writes it" in capsys.readouterr().err
    (tmp_path / NAME).write_text("{}\n")
    assert fit.main(["--study", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "holds no run that can be used" in shown.err and "left out line 1: no run, study" in shown.out


def test_the_papers_numbers_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit.main(["--study", "paper"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    rows = {
        cells[0]: cells[1:]
        for cells in ([cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line)
        if len(cells) == 6
    }
    assert len(rows) > 140
    for name in ("B", "beta", "gamma", "E + A / N^alpha at 0.93B"):
        assert abs(float(rows[name][3])) < 1, name
    assert rows["late avg, a"][:2] == ["0.6358", "0.5382"]
    assert rows["closed form, a"][:2] == ["0.5265", "0.5267"]
    assert rows["1e+22 FLOPs, best D (B)"][:2] == ["790", "790.1"]
    assert rows["slope"][:2] == ["0.525", "0.5251"] and rows["encoder of 8B (B)"][:2] == ["1.3", "1.296"]
    assert rows["early at 1e+21"][:2] == ["2.74", "2.74"]
    for reading in (
        "Fig. 22: 0.628",
        "Fig. 1: -0.0474",
        "Fig. 2 caption: 0.25",
        "chart labels: 0.464",
        "appendix C: 0.483",
    ):
        assert reading in shown, reading
    assert "what cannot be checked" in shown


def test_intervals_are_proved_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit.main(["--prove-intervals", "1", "--bootstrap", "10"]) == 0
    assert re.search(r"in 1 trials: E [01], A [01], .*, d [01]", re.sub(r"\s+", " ", capsys.readouterr().out))


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    assert fit.main(["--study", "paper"]) == 2
    assert "fitting needs scipy: NMM_EXTRAS=scaling source tools/setup_env.sh" in capsys.readouterr().err
