"""tools/verify_parallel.py prints the parity table, and a collective left out turns it red and names the tensor."""

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from megatron_nmm.verify.workers import WorkerPool
from tests.house.tree import ROOT
from tools import verify_parallel

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def verify(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The exit code and what was printed; layouts of at most two processes, on the workers that are there already."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["verify_parallel.py", "--processes", "2", *arguments])
        monkeypatch.setattr(verify_parallel, "WorkerPool", lambda processes: nullcontext(pool))
        code = verify_parallel.main()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def rows(out: str) -> dict[str, list[str]]:
    """Cells of the table by layout."""
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in out.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in cells}


def test_every_layout_equals_one_process(verify: Run) -> None:
    code, out = verify("--recipe", str(ROOT / "examples" / "digits.py"))
    table = rows(out)
    assert code == 0, out
    assert table.keys() == {"TP2", "TP2+SP", "PP2", "DP2", "DP2+distributed optimizer", "TP2+recompute", "CP2"}
    for processes, loss_error, gradient_error, tensor, verdict in table.values():
        assert (processes, verdict) == ("2", "equal")
        assert float(loss_error) <= 1e-5 and float(gradient_error) <= 1e-5
        assert tensor.endswith((".weight", ".bias"))
    assert re.search(r"7 layouts equal one process: the loss and all \d+ gradients within 1e-05 relative", out)


def test_a_collective_left_out_turns_the_table_red_and_names_the_tensor(verify: Run) -> None:
    code, out = verify(
        "--recipe", str(ROOT / "examples" / "digits.py"), "--inject-fault", "norm gradients", "--tensors"
    )
    table = rows(out)
    assert code == 1, out
    wrong = {name for name, row in table.items() if row[0] == "2" and row[-1] == "DIFFERS"}
    assert {"TP2", "TP2+SP", "TP2+recompute"} <= wrong
    assert not wrong & {"PP2", "DP2"}, "no norm is summed over tensor ranks there"
    assert re.fullmatch(r"decoder\.layers\.\d\.self_attention\.[qk]_layernorm\.weight", table["TP2"][3])
    assert f"{len(wrong)} of 7 layouts differ from one process: TP2" in out
    tensors = {name: row for name, row in table.items() if name.endswith((".weight", ".bias"))}
    faulty = {name for name, row in tensors.items() if row[-1] == "DIFFERS"}
    assert {name for name in tensors if name.endswith("_layernorm.weight")} >= faulty
    assert {row[1] for name, row in tensors.items() if name in faulty} <= wrong
    assert float(tensors[table["TP2"][3]][0]) >= float(table["TP2"][2]), "at least what the layout's own row says"
    assert len(tensors) > len(faulty) > 0


def test_a_recipe_that_is_not_there_is_one_line(verify: Run) -> None:
    code, out = verify("--recipe", "no/such/recipe.py")
    assert code == 2
    assert out.startswith("error: recipe no/such/recipe.py does not exist; give the path of a .py file")


def test_one_process_has_no_layout_to_try(verify: Run) -> None:
    code, out = verify("--recipe", str(ROOT / "examples" / "digits.py"), "--processes", "1")
    assert code == 2
    assert out == "error: no layout has at most --processes 1; use 2, or 4 to try all of them\n"
