"""The table of benchmarks is whole, names scores there are, and the guide shows it."""

from megatron_nmm.evaluate.benchmarks import BENCHMARKS, RUN_HERE
from megatron_nmm.evaluate.metrics import METRICS
from tests.house.tree import ROOT


def test_every_benchmark_of_both_papers_is_there_once() -> None:
    assert [sum(row.paper == paper for row in BENCHMARKS) for paper in ("P1", "NaViL")] == [7, 14]
    assert len({(row.paper, row.name) for row in BENCHMARKS}) == len({row.file for row in BENCHMARKS}) == 21
    assert len(RUN_HERE) == 7


def test_scores_of_those_that_run_here_exist() -> None:
    assert {row.score for row in RUN_HERE.values()} <= set(METRICS)
    assert all(row.file.endswith(".jsonl" if row.runner == "evaluate" else ".tsv") for row in BENCHMARKS)


def test_the_guide_shows_each_with_its_file() -> None:
    lines = (ROOT / "tools" / "README.md").read_text(encoding="utf-8").splitlines()
    for row in BENCHMARKS:
        cells = [row.name, row.paper, row.split, f"`{row.file}`", row.score]
        assert f"| {' | '.join(cells)} |" in lines
