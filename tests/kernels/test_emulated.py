"""The CUDA kernels, emulated in three orders of threads, agree with the PyTorch references and the CPU library."""

import ctypes

import pytest
import torch
from nmm_kernels.calls import calls
from nmm_kernels.cases import CASES, FAR_ROWS, FAR_WIDTH, Case

from tests.kernels.compare import REFERENCES, assert_same, tensors
from tests.kernels.emulated import ORDERS, emulated_library, load
from tests.kernels.toolchain import missing_for_emulator

pytestmark = pytest.mark.skipif(missing_for_emulator() is not None, reason=missing_for_emulator() or "")

emulated = torch.ops.nmm_emulated


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    """The kernels as operators of this process."""
    return load(emulated_library())


@pytest.fixture
def forward(library: ctypes.CDLL) -> None:
    """Threads in order."""
    library.emulator_set_order(ORDERS["forward"], 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_operator_agrees_in_every_order_of_threads(case: Case, library: ctypes.CDLL) -> None:
    for call in calls(case, case.inputs()):
        run = getattr(emulated, call.operator)
        library.emulator_set_order(ORDERS["forward"], 0)
        result = run(*call.arguments)
        assert_same(call, result, REFERENCES[call.operator](*call.arguments))
        assert_same(call, result, call.run())
        for order in ("backward", "shuffled"):
            library.emulator_set_order(ORDERS[order], 1)
            for ours, first in zip(tensors(run(*call.arguments)), tensors(result), strict=True):
                assert torch.equal(ours.view(torch.uint8), first.view(torch.uint8)), (call, order)


def test_double_precision_agrees_to_its_own_rounding(forward: None) -> None:
    case = Case(33, 130, 5, 3, torch.float64, align=16, load="dropped")
    for call in calls(case, case.inputs()):
        result = getattr(emulated, call.operator)(*call.arguments)
        assert_same(call, result, REFERENCES[call.operator](*call.arguments))


def test_more_choices_than_lanes_and_more_slices_than_a_block(forward: None) -> None:
    case = Case(130, 40, 50, 37, torch.float32, align=16, load="dropped")
    for call in calls(case, case.inputs()):
        result = getattr(emulated, call.operator)(*call.arguments)
        assert_same(call, result, REFERENCES[call.operator](*call.arguments))


@pytest.mark.parametrize("bias", [None, torch.zeros(70)])
def test_equal_scores_are_chosen_in_order_of_index(bias: torch.Tensor | None, forward: None) -> None:
    logits = torch.zeros(3, 70)
    logits[0, ::2] = -0.0  # equal to 0
    logits[1, 40:] = 1
    logits[2] = float("nan")
    experts = emulated.route(logits, 5, "sigmoid", False, bias)[1]
    assert torch.equal(experts, REFERENCES["route"](logits, 5, "sigmoid", False, bias)[1])
    assert experts[0].tolist() == [0, 1, 2, 3, 4]


def test_extreme_groups_become_8_bits_as_in_the_reference(forward: None) -> None:
    x = torch.randn(6, 384)
    x[0] *= 1e-42  # the scale is held at the smallest normal number
    x[1] *= 1e38
    x[2, 128:] = 0
    x[3, 5] = float("nan")
    x[4, 200] = float("inf")
    row_map = torch.randperm(8)[:6, None].int()
    values, scales = emulated.permute_to_fp8(x, row_map, 8)
    expected_values, expected_scales = REFERENCES["permute_to_fp8"](x, row_map, 8)
    torch.testing.assert_close(scales, expected_scales, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(values.float(), expected_values.float(), rtol=0, atol=0, equal_nan=True)


def test_views_that_are_not_aligned_take_narrower_words(forward: None) -> None:
    case = Case(20, 64, 4, 2, torch.bfloat16, align=16)
    inputs = case.inputs()
    shifted = torch.empty(20 * 64 + 1, dtype=torch.bfloat16)[1:].view(20, 64).copy_(inputs.x)
    assert shifted.data_ptr() % 16 != 0
    for name in ("permute", "permute_to_fp8"):
        aligned = getattr(emulated, name)(inputs.x, inputs.row_map, inputs.rows)
        unaligned = getattr(emulated, name)(shifted, inputs.row_map, inputs.rows)
        for ours, theirs in zip(tensors(unaligned), tensors(aligned), strict=True):
            assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def test_rows_beyond_two_to_the_31_elements_are_reached(forward: None) -> None:
    last = torch.tensor([[FAR_ROWS - 1, 3], [-1, FAR_ROWS - 2]], dtype=torch.int32)
    y = torch.empty(FAR_ROWS, FAR_WIDTH, dtype=torch.bfloat16)  # untouched pages never exist
    for row in last[last >= 0].tolist():
        y[row] = row % 7 + 1
    summed = emulated.combine(y, last, torch.ones(2, 2))
    assert summed[0].unique().tolist() == [(FAR_ROWS - 1) % 7 + 1 + 3 % 7 + 1]
    assert summed[1].unique().tolist() == [(FAR_ROWS - 2) % 7 + 1]
    gathered = emulated.modality_gather(y, torch.tensor([FAR_ROWS - 2]))
    assert torch.equal(gathered[0], y[-2])


def test_rows_beyond_two_to_the_31_bytes_are_written(forward: None) -> None:
    x = torch.arange(1, 3, dtype=torch.uint8)[:, None].expand(2, FAR_WIDTH).contiguous()
    out = emulated.permute(x, torch.tensor([[FAR_ROWS - 1], [1]], dtype=torch.int32), FAR_ROWS)
    assert out.numel() > 2**31
    assert torch.equal(out[-1], x[0]) and torch.equal(out[1], x[1])
    assert not out[0].any() and not out[FAR_ROWS - 2].any()


@pytest.mark.parametrize("name", ["permute", "permute_to_fp8"])
def test_a_row_behind_the_last_ends_the_kernel(name: str, forward: None) -> None:
    with pytest.raises(RuntimeError, match="row_map names a row beyond the last"):
        getattr(emulated, name)(torch.ones(3, 32), torch.tensor([[0], [1], [2]], dtype=torch.int32), 2)


@pytest.mark.parametrize("row", [-1, 5])
def test_a_routing_index_outside_the_rows_ends_the_kernel(row: int, forward: None) -> None:
    with pytest.raises(RuntimeError, match="a routing index names a row that is not there"):
        emulated.modality_gather(torch.ones(5, 8), torch.tensor([0, row]))


def test_what_does_not_fit_is_refused_with_the_limit(forward: None) -> None:
    with pytest.raises(RuntimeError, match=r"6145 experts do not fit .* take up to 6144"):
        emulated.route(torch.zeros(1, 6145), 2)
    with pytest.raises(RuntimeError, match=r"12289 experts do not fit .* take up to 12288"):
        emulated.dispatch_plan(torch.zeros(1, 1, dtype=torch.int32), 12289)
    with pytest.raises(RuntimeError, match="rows are 2097121 wide; the CUDA kernels take up to 2097120"):
        emulated.permute(torch.zeros(1, 2097121), torch.zeros(1, 1, dtype=torch.int32), 1)


def test_as_many_experts_as_fit_are_routed_and_planned(forward: None) -> None:
    logits = torch.randn(40, 6144)
    experts = emulated.route(logits, 3)[1]
    assert torch.equal(experts, REFERENCES["route"](logits, 3)[1])
    for ours, theirs in zip(
        emulated.dispatch_plan(experts, 12288, 16), REFERENCES["dispatch_plan"](experts, 12288, 16), strict=True
    ):
        assert torch.equal(ours, theirs)
