"""tools/budget.py answers from the papers and from a fit, and refuses questions that are none."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.scaling.fit import file as fit_file
from tests.scaling.studies import made
from tools.budget import main


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """fit.json of a made study."""
    path = tmp_path_factory.mktemp("budget") / fit_file.NAME
    fit_file.write(path, made().fits)
    return str(path)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What --json prints."""
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_papers_answer_for_1e22_flops(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--flops", "1e22")
    losses = {one["family"]: one["papers_frontier"] for one in found["families"]}
    assert losses == pytest.approx({"early": 2.446, "late": 2.450, "sparse": 2.381}, abs=6e-4)
    sparse = found["families"][2]
    assert sparse["parameters"]["value"] == pytest.approx(2.1e9, rel=0.01)
    assert sparse["tokens"]["value"] == pytest.approx(790e9, rel=0.01)
    assert found["choice"].startswith("early fusion, sparse experts") and "Sparse experts pay" in found["experts"]
    assert any("P1 prints no A and B" in text for text in found["approximations"])
    early = found["families"][0]["parameters"]
    assert early["low"] < early["value"] < early["high"] and found["warnings"] == []


def test_a_fit_answers_beside_the_paper(fit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--flops", "1e22", "--fit", fit]) == 0
    out = capsys.readouterr().out
    for words in ("2.446", "2.450", "2.381", "2.11 B, 790 B", 'early_fusion("8.129b")', "by NaViL's rule"):
        assert words in out
    assert "P1 prints no A and B" not in out and "warning early fusion: alpha is known to 20 % only" in out


def test_gpus_and_days_are_a_budget_with_a_price(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--gpus", "256", "--gpu", "h100", "--days", "14", "--mfu", "0.4", "--price", "2")
    early = answer(capsys, *asked)["families"][0]
    assert early["flops"]["value"] == pytest.approx(256 * 14 * 86_400 * 0.4 * 989e12)
    assert early["days"] == pytest.approx(14) and early["cost"] == pytest.approx(256 * 14 * 24 * 2)


def test_given_data_tells_the_model_and_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--tokens", "7.9e11", "--family", "sparse", "--price", "2")
    (sparse,) = found["families"]
    assert sparse["parameters"]["value"] == pytest.approx(2.11e9, rel=0.01) and sparse["cost"] > 1000
    assert found["choice"] is None  # runs of unlike budgets


def test_a_serving_size_tells_overtraining_and_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    by_size = answer(capsys, "--parameters", "2e9")
    assert by_size == answer(capsys, "--latency-flops", "4e9")
    rows = by_size["served"]["early"]
    assert [row["factor"] for row in rows] == pytest.approx([0.5, 1, 2, 4, 8, 16, 32])
    assert rows[1]["paid"] == pytest.approx(0, abs=1e-9) and rows[5]["paid"] == pytest.approx(0.055, abs=0.002)
    (row,) = answer(capsys, "--parameters", "2e9", "--flops", "1e22")["served"]["early"]
    assert row["tokens"] == pytest.approx(1e22 / 6 / 2e9) and row["factor"] == pytest.approx(8.45, rel=0.01)
    assert main(["--parameters", "2e9"]) == 0
    assert "how long to train it" in capsys.readouterr().out


def test_sources_run_out_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    sources = ["--sources", "caption=3e10", "interleaved=2e11:2", "text=4e12"]
    found = answer(capsys, "--flops", "1e22", *sources)["sources"]
    assert [row["share"] for row in found["rows"]] == pytest.approx([0.45, 0.45, 0.1])
    assert "caption runs out after 34 % of the run" in found["remedy"]
    assert main(["--flops", "1e22", *sources]) == 0
    assert "after 34 % of the run" in capsys.readouterr().out
    own = answer(capsys, "--flops", "1e20", "--sources", "a=1e12", "b=1e12", "--weight", "a=1", "--weight", "b=3")
    assert [row["share"] for row in own["sources"]["rows"]] == pytest.approx([0.25, 0.75])
    assert own["sources"]["remedy"] == ""


def test_far_beyond_the_fit_is_warned(fit: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--flops", "1e26", "--fit", fit)
    assert any("FLOPs 10,000 times beyond the runs of the fit" in text for text in found["warnings"])
    assert found["families"][0]["beyond_the_fit"]["flops"] == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no budget; give --flops, or --gpus and --days"),
        (["--flops", "1e20", "--tokens", "1e9"], "2 budgets at once: --flops, --tokens; give one of them"),
        (["--flops", "1e20", "--gpus", "8", "--days", "1"], "2 budgets at once: --flops, --gpus and --days"),
        (["--tokens", "1e9", "--parameters", "1e9"], "2 budgets at once: --tokens, --parameters"),
        (["--days", "3"], "--days 3 is no budget without --gpus"),
        (["--gpus", "8"], "no budget"),
        (["--flops", "1e20", "--mfu", "40"], "--mfu 40 is more than the whole peak"),
        (["--flops", "1e20", "--gpu", "h1000"], "no GPU is called h1000; the nearest is h100"),
        (["--flops", "1e20", "--family", "navil"], "the fit has no navil models, only early, late, sparse"),
        (["--flops", "1e20", "--kind", "text"], "the fit has no kind text"),
        (["--flops", "1e20", "--fit", "nowhere"], "nowhere does not exist"),
        (["--flops", "1e20", "--sources", "caption"], "source 'caption' is not name=tokens"),
        (["--flops", "1e20", "--sources", "caption=1e9"], "asks for more than the corpora given"),
        (["--flops", "1e20", "--sources", "web=1e9"], "web=...: web is no part of preset"),
        (["--flops", "1e20", "--weight", "a=1"], "--weight a=1 without --sources"),
        (["--flops", "1e20", "--sources", "a=1", "--weight", "b=1"], "--weight names b, --sources a"),
    ],
)
def test_questions_that_are_none_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1e22", "0", "nan", "inf", "many"])
def test_a_budget_is_a_number_above_zero(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"--flops={value}"])
    assert ended.value.code == 2
    assert f"{value} is not a finite number above 0" in capsys.readouterr().err


def test_it_needs_neither_torch_nor_scipy(fit: str, tmp_path: Path) -> None:
    """A machine without the extra can still plan: importing either would end this process."""
    for name in ("torch", "scipy"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('loads {name}')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from tools.budget import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, "--flops", "1e22", "--fit", fit], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
