"""The compiled CPU operators agree with the PyTorch references, on any number of threads, at every level."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from nmm_kernels.calls import calls
from nmm_kernels.cases import CASES, FAR_ROWS, FAR_WIDTH, Case

from tests.kernels.compare import NO_LIBRARY, REFERENCES, assert_same, has_library, tensors
from tests.kernels.conftest import KERNELS

pytestmark = pytest.mark.skipif(not has_library(), reason=NO_LIBRARY)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's thread count back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_operator_agrees_with_its_reference(case: Case) -> None:
    for call in calls(case, case.inputs()):
        assert_same(call, call.run(), REFERENCES[call.operator](*call.arguments))


def test_double_precision_agrees_to_its_own_rounding() -> None:
    case = Case(33, 130, 5, 3, torch.float64, align=16, load="dropped")
    for call in calls(case, case.inputs()):
        assert_same(call, call.run(), REFERENCES[call.operator](*call.arguments))


def test_results_do_not_depend_on_the_number_of_threads(threads: None) -> None:
    case = Case(3000, 72, 16, 6, align=16, load="dropped")
    inputs = case.inputs()
    torch.set_num_threads(1)
    alone = [call.run() for call in calls(case, inputs)]
    torch.set_num_threads(5)
    for call, expected in zip(calls(case, inputs), alone, strict=True):
        for ours, theirs in zip(tensors(call.run()), tensors(expected), strict=True):
            assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)), call


def test_strided_inputs_are_read_as_they_look() -> None:
    case = Case(30, 64, 8, 2, torch.float32)
    inputs = case.inputs()
    wide = torch.randn(30, 128)
    columns = wide[:, ::2]
    assert torch.equal(
        torch.ops.nmm.permute(columns, inputs.row_map, inputs.rows),
        torch.ops.nmm.permute(columns.contiguous(), inputs.row_map, inputs.rows),
    )
    turned = inputs.row_map.t().contiguous().t()
    assert torch.equal(
        torch.ops.nmm.combine(inputs.y, turned, inputs.probabilities.t().contiguous().t()),
        torch.ops.nmm.combine(inputs.y, inputs.row_map, inputs.probabilities),
    )


def test_rows_beyond_two_to_the_31_elements_are_reached() -> None:
    last = torch.tensor([[FAR_ROWS - 1, 3], [-1, FAR_ROWS - 2]], dtype=torch.int32)
    # Untouched pages of this matrix never exist: only the rows of the map are written and read.
    y = torch.empty(FAR_ROWS, FAR_WIDTH, dtype=torch.bfloat16)
    for row in last[last >= 0].tolist():
        y[row] = row % 7 + 1
    assert y[-1].data_ptr() - y.data_ptr() > 2 * 2**31
    summed = torch.ops.nmm.combine(y, last, torch.ones(2, 2))
    assert summed[0].unique().tolist() == [(FAR_ROWS - 1) % 7 + 1 + 3 % 7 + 1]
    assert summed[1].unique().tolist() == [(FAR_ROWS - 2) % 7 + 1]
    gathered = torch.ops.nmm.modality_gather(y, torch.tensor([FAR_ROWS - 2]))
    assert torch.equal(gathered[0], y[-2])


def test_rows_beyond_two_to_the_31_bytes_are_written() -> None:
    x = torch.arange(1, 3, dtype=torch.uint8)[:, None].expand(2, FAR_WIDTH).contiguous()
    row_map = torch.tensor([[FAR_ROWS - 1], [1]], dtype=torch.int32)
    out = torch.ops.nmm.permute(x, row_map, FAR_ROWS)
    assert out.numel() > 2**31
    assert torch.equal(out[-1], x[0]) and torch.equal(out[1], x[1])
    assert not out[0].any() and not out[FAR_ROWS - 2].any()


def test_large_results_that_bypass_the_caches_are_complete() -> None:
    x = torch.randn(300, 65536)
    row_map = torch.randperm(320)[:300, None].int()
    out = torch.ops.nmm.permute(x, row_map, 320)
    assert torch.equal(out[row_map[:, 0].long()], x)
    assert int((out != 0).any(1).sum()) == 300


LEVEL_CHECK = """
import sys
import torch
from nmm_kernels.calls import calls
from nmm_kernels.cases import CASES
from tests.kernels.compare import REFERENCES, assert_same

torch.set_num_threads(1)
for case in CASES:
    for call in calls(case, case.inputs()):
        assert_same(call, call.run(), REFERENCES[call.operator](*call.arguments))
print("agreed on", len(CASES))
"""


def run_at(level: str) -> subprocess.CompletedProcess[str]:
    """Run all cases in a process that keeps to one level of instructions."""
    path = os.pathsep.join([str(KERNELS), str(KERNELS.parent)])
    environment = {**os.environ, "NMM_CPU_LEVEL": level, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", LEVEL_CHECK], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("level", ["baseline", "v3", "v4"])
def test_every_level_of_instructions_agrees(level: str) -> None:
    ran = run_at(level)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[:2] == ["agreed", "on"]


def test_an_unknown_level_is_refused() -> None:
    ran = run_at("v9")
    assert ran.returncode != 0
    assert 'NMM_CPU_LEVEL is "v9"; give baseline, v3, v4 or v4_bf16' in ran.stderr
