"""Schema, fake and gradient of every operator pass torch's own checks; references serve where nothing is built."""

import shutil
import subprocess
import sys
from pathlib import Path

import nmm_kernels
import pytest
import torch
from nmm_kernels.calls import Call, calls
from nmm_kernels.cases import Case
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.kernels.compare import tensors
from tests.kernels.conftest import KERNELS

CASE = Case(6, 20, 4, 2, torch.float32, align=4)
ALL = [*calls(CASE, CASE.inputs())]
ONE_EACH = list({call.operator: call for call in ALL}.values())
"""The last variant of each operator: opcheck takes seconds for what the variants share."""


def ids(call: Call) -> str:
    """Name of the operator."""
    return call.operator


def with_gradients(call: Call) -> tuple[object, ...]:
    """The arguments, floating-point ones asking for a gradient where the operator has one to give."""
    operator = next(operator for operator in nmm_kernels.OPERATORS if operator.name == call.operator)
    gives = operator.backward is not None and call.operator != "permute_to_fp8"
    return tuple(
        argument.clone().requires_grad_()
        if gives and isinstance(argument, torch.Tensor) and argument.is_floating_point()
        else argument
        for argument in call.arguments
    )


def test_the_calls_cover_every_operator() -> None:
    assert {call.operator for call in ALL} == {operator.name for operator in nmm_kernels.OPERATORS}


@pytest.mark.parametrize("call", ONE_EACH, ids=ids)
def test_opcheck(call: Call) -> None:
    arguments = with_gradients(call)
    if call.operator == "route":
        arguments = (*arguments[:4], None)  # a bias has no gradient to ask for
    torch.library.opcheck(getattr(torch.ops.nmm, call.operator).default, arguments)


@pytest.mark.parametrize("call", ONE_EACH, ids=ids)
def test_fake_results_look_like_real_ones(call: Call) -> None:
    real = tensors(call.run())
    with FakeTensorMode() as mode:
        arguments = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in call.arguments]
        fake = tensors(getattr(torch.ops.nmm, call.operator)(*arguments))
    for ours, theirs in zip(fake, real, strict=True):
        assert (ours.shape, ours.dtype, ours.stride()) == (theirs.shape, theirs.dtype, theirs.stride())


def test_a_layer_compiles_into_one_graph() -> None:
    def layer(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        probabilities, experts, _ = torch.ops.nmm.route(logits, 2, "softmax", True)
        row_map, _, _ = torch.ops.nmm.dispatch_plan(experts, 4)
        rows = nmm_kernels.planned_rows(experts.numel(), 4)
        return torch.ops.nmm.combine(torch.ops.nmm.permute(x, row_map, rows) * 2, row_map, probabilities)

    inputs = CASE.inputs()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x, same_x = (inputs.x.clone().requires_grad_() for _ in range(2))
    torch.testing.assert_close(compiled(inputs.logits, x), layer(inputs.logits, same_x))
    compiled(inputs.logits, x).sum().backward()
    layer(inputs.logits, same_x).sum().backward()
    torch.testing.assert_close(x.grad, same_x.grad)


COUNT = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    import nmm_kernels
    torch.ops.nmm.route(torch.randn(3, 4), 2)
    torch.ops.nmm.route(torch.randn(3, 4), 2)
ours = [str(warning.message) for warning in caught if "nmm_kernels" in str(warning.message)]
print(len(ours), *ours, nmm_kernels.serving()["CPU"], sep="|")
"""


def import_copy(folder: Path, library: bytes | None) -> list[str]:
    """Import a copy of the package with this as its CPU library: how many warnings, their text, what serves."""
    shutil.copytree(KERNELS / "nmm_kernels", folder / "nmm_kernels", ignore=shutil.ignore_patterns("*.so", "csrc"))
    if library is not None:
        (folder / "nmm_kernels" / "_cpu.abi3.so").write_bytes(library)
    ran = subprocess.run([sys.executable, "-c", COUNT], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip().split("|")


def test_without_a_library_the_reference_serves_and_says_so_once(tmp_path: Path) -> None:
    count, warning, serving = import_copy(tmp_path, None)
    assert count == "1"
    assert "CPU: reference: no library is built" in warning and "python kernels/build.py" in warning
    assert serving == "reference: no library is built"


def test_a_library_that_does_not_load_is_named_and_the_reference_serves(tmp_path: Path) -> None:
    count, warning, serving = import_copy(tmp_path, b"not a library")
    assert count == "1"
    assert "_cpu.abi3.so does not load" in warning
    assert serving.startswith("reference: _cpu.abi3.so does not load")


def test_an_operator_that_a_library_lacks_is_served_by_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from nmm_kernels import library
    from nmm_kernels.operator import Operator

    newer = Operator("newer", "(Tensor x) -> Tensor", lambda x: x + 1, torch.empty_like)
    handle = torch.library.Library("nmm", "FRAGMENT")
    handle.define(newer.name + newer.schema)
    monkeypatch.setitem(library._serving, "CPU", "library _cpu.abi3.so")
    library._fill(handle, "CPU", [*nmm_kernels.OPERATORS[:1], newer])
    assert torch.equal(torch.ops.nmm.newer(torch.zeros(2)), torch.ones(2))
    assert library._serving["CPU"].startswith("library _cpu.abi3.so, reference for")
    assert "newer: the library is older than this package" in library._serving["CPU"]
