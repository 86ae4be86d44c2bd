"""tools/dry_run.py: tables and JSON of ranks, exit codes, and what it cannot use refused in one message."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_nmm.dry_run.show import ranges
from tests.house.tree import ROOT
from tools import dry_run

MOE = str(ROOT / "examples" / "moe.py")
BATCH = ("--set", "data.microbatch=1")
"""Its global batch then has rows for eight data ranks."""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, output and errors of the tool in this process."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dry_run.py", *BATCH, *arguments])
        code = dry_run.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_one_rank(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    code, out, _ = run("--recipe", MOE, "--world", "8", "--rank", "5", "--json", str(file))
    assert code == 0, out
    assert "rank 5: expert 1, data 5" in out and "holds patch stem, embeddings, decoder layers 1-4, output layer" in out
    assert "every expert takes the same 1/8 of the tokens" in out
    assert "token_dispatch" in out and "all_to_all" not in out and "alltoall_base" in out and "no faults" in out
    report = json.loads(file.read_text())
    (rank,) = report["ranks"]
    assert (report["world"], rank["rank"], rank["places"]) == (8, 5, {"expert": 1, "data": 5})
    assert rank["memory"]["peak"] == sum(rank["memory"]["at_peak"].values())


def test_every_role(run: Run) -> None:
    code, out, _ = run("--recipe", MOE, "--world", "16", "--all", "--set", "parallel.pipeline=2")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert code == 0, out
    assert [row[:2] for row in rows if row[0] in ("0", "8")] == [["0", "8"], ["8", "8"]]
    assert "rank " in out and "(2 ranks in" in out


def test_too_much_memory_is_a_fault(run: Run) -> None:
    code, out, _ = run("--recipe", MOE, "--world", "2", "--memory", "0.01")
    assert code == 1
    assert "rank 0: its step needs 0." in out and "more than the 0.01 of --memory" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--recipe", MOE, "--world", "8", "--rank", "8"), "rank 8 is none of a world of 8; use 0 to 7"),
        (("--recipe", MOE, "--world", "8", "--rank", "3-1"), "--rank 3-1 is no list of ranks; write 517, or ranges"),
        (("--recipe", MOE, "--world", "8", "--rank", "first"), "--rank first is no list of ranks"),
        (("--recipe", MOE, "--world", "9"), "not divisible by parallel.expert 2"),
        (
            ("--recipe", MOE, "--world", "8", "--set", "parallel.dispatcher=alltoall"),
            "parallel.dispatcher alltoall asks its data for sizes",
        ),
        (("--recipe", MOE, "--world", "8", "--set", "parallel.tenser=2"), "parallel.tenser is not a key"),
        (("--recipe", "none.py", "--world", "8"), "recipe none.py does not exist; give the path of a .py file"),
        (("--recipe", f"{MOE}:0.9b", "--world", "8"), "has no preset 0.9b; use 0.932b"),
    ],
)
def test_what_cannot_be_used_is_refused(run: Run, arguments: tuple[str, ...], told: str) -> None:
    code, _, errors = run(*arguments)
    assert code == 2
    assert errors.startswith("error: ") and told in errors


def test_ranges() -> None:
    assert ranges([0]) == "0"
    assert ranges(range(512, 520)) == "512-519"
    assert ranges((5, 261, 517, 773)) == "5-773 by 256"
    assert ranges((0, 1, 2, 256, 257, 258)) == "0-2, 256-258"
    assert ranges((3, 9)) == "3, 9"
