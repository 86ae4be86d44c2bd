"""The CUDA library on a real GPU agrees with the PyTorch references: the cases of the CPU and of the emulator."""

import nmm_kernels
import pytest
import torch
from build import PACKAGE, build
from nmm_kernels.calls import calls
from nmm_kernels.cases import CASES, FAR_ROWS, FAR_WIDTH, Case

from tests.kernels.compare import REFERENCES, assert_same, tensors

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA GPU")

if torch.cuda.is_available() and not nmm_kernels.serving()["CUDA"].startswith("library"):
    build(PACKAGE, stems=("_cuda",))
    torch.ops.load_library(next(PACKAGE.glob("_cuda.*so")))


def on_cpu(value: object) -> object:
    """A tensor, or a tuple of them, on the CPU; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    return tuple(on_cpu(one) for one in value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_operator_agrees_with_its_reference(case: Case) -> None:
    for call in calls(case, case.inputs("cuda")):
        expected = REFERENCES[call.operator](*(on_cpu(argument) for argument in call.arguments))
        assert_same(call, on_cpu(call.run()), expected)


def test_results_are_the_same_every_time() -> None:
    case = Case(3000, 2048, 64, 6, align=16, load="dropped")
    inputs = case.inputs("cuda")
    first = [call.run() for call in calls(case, inputs)]
    for call, before in zip(calls(case, inputs), first, strict=True):
        for ours, theirs in zip(tensors(call.run()), tensors(before), strict=True):
            assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)), call


def test_work_is_put_on_the_current_stream() -> None:
    x, row_map = torch.ones(4096, 4096, device="cuda"), torch.arange(4096, device="cuda").int()[:, None]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        x.mul_(2)  # waits behind the sleep; a permute on another stream would not
        out = torch.ops.nmm.permute(x, row_map, 4096)
    stream.synchronize()
    assert bool((out == 2).all())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has fewer than two NVIDIA GPUs")
def test_the_tensors_device_is_used_and_the_current_one_stays() -> None:
    x, row_map = torch.ones(8, 64, device="cuda:1"), torch.arange(8, device="cuda:1").int()[:, None]
    with torch.cuda.device(0):
        assert torch.equal(torch.ops.nmm.permute(x, row_map, 8), x)
        assert torch.cuda.current_device() == 0


def test_a_tensor_on_another_device_is_refused() -> None:
    with pytest.raises(RuntimeError, match="row_map is on another device than the rows; move it there"):
        torch.ops.nmm.permute(torch.ones(2, 8, device="cuda"), torch.zeros(2, 1, dtype=torch.int32), 2)


def test_rows_beyond_two_to_the_31_elements_are_reached() -> None:
    y = torch.zeros(FAR_ROWS, FAR_WIDTH, dtype=torch.bfloat16, device="cuda")
    y[-1], y[3] = 2, 1
    summed = torch.ops.nmm.combine(y, torch.tensor([[FAR_ROWS - 1, 3]], device="cuda").int(), None)
    assert summed.unique().tolist() == [3]
