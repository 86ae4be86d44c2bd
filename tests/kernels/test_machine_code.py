"""nvcc compiles every kernel for four architectures without a spill, and the machine code is what was meant."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build import ARCHITECTURES

from tests.kernels.conftest import KERNELS
from tests.kernels.machine_code import NO_TOOLS, STRICT, cuda_library, disassembler, kernels, occupancies
from tests.kernels.toolchain import NO_NVCC, toolkit

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None or toolkit() is None, reason=NO_NVCC)
reads_code = pytest.mark.skipif(disassembler() is None, reason=NO_TOOLS)

REGISTERS = 32
"""With at most this many, 256 threads a block fill every multiprocessor."""
MORE = {
    "combine_backward_kernel": (40, "two rows in flight a thread: at 32 registers fp16 spills on sm_90 and sm_100"),
    "route_kernel": (40, "exponentials and divisions; it waits for K searches, not for memory"),
    "route_kernel<double>": (80, "exponentials in fp64, which is for checking gradients"),
    "route_backward_kernel": (40, "exponentials and divisions over short rows"),
    "route_backward_kernel<double>": (80, "exponentials in fp64, which is for checking gradients"),
}
"""Kernel -> most registers, and why more than 32."""
MORE_ON = {
    ("permute_to_fp8_kernel", "80"): (48, "no 8-bit floats in hardware: the conversion is software"),
}
SMALL_MULTIPROCESSOR = 40
"""Registers at which 256 threads a block fill a multiprocessor of sm_120, which takes 1,536 threads."""


def registers_allowed(name: str, family: str, architecture: str) -> int:
    """The most registers that one kernel may take."""
    if name in MORE or family in MORE:
        return (MORE.get(name) or MORE[family])[0]
    if (family, architecture) in MORE_ON:
        return MORE_ON[family, architecture][0]
    return SMALL_MULTIPROCESSOR if architecture == "120" else REGISTERS


def test_every_kernel_compiles_without_a_spill_or_a_warning() -> None:
    assert cuda_library().stat().st_size > 0


def test_a_spill_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "spills.cu"
    source.write_text(
        "__global__ void __launch_bounds__(1024, 2) spills(const double* in, double* out) {\n"
        "  double value[64];\n"
        "#pragma unroll\n"
        "  for (int i = 0; i < 64; ++i) value[i] = in[threadIdx.x + 1024 * i];\n"
        "  __syncthreads();\n"
        "#pragma unroll\n"
        "  for (int i = 0; i < 64; ++i) out[threadIdx.x + 1024 * i] = value[63 - i] * value[(i * 7) % 64];\n"
        "}\n"
    )
    command = [*STRICT.split(), "-arch=sm_90", "-cubin", str(source), "-o", str(tmp_path / "spills.cubin")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "spilled to local memory" in ran.stderr


@reads_code
def test_every_kernel_is_there_for_every_architecture() -> None:
    names = {architecture: {one.name for one in kernels() if one.architecture == architecture} for architecture in
             ARCHITECTURES}  # fmt: skip
    assert len(names["90"]) > 40
    assert all(found == names["90"] for found in names.values())


@reads_code
def test_rows_move_in_128_bit_accesses() -> None:
    vectors = [one for one in kernels() if one.moves_vectors]
    assert {one.family for one in vectors} == {
        *("permute_kernel", "permute_to_fp8_kernel", "combine_kernel", "combine_backward_kernel"),
        *("gather_rows_kernel", "spread_rows_kernel", "clear_rows_kernel"),
    }
    for one in vectors:
        stores = any(name.startswith("STG.E.128") for name in one.instructions)
        loads = any(name.startswith("LDG.E.128") for name in one.instructions)
        assert stores and (loads or one.family == "clear_rows_kernel"), one
    narrow = next(one for one in kernels() if one.name == "permute_kernel<uint2>")
    assert not any("128" in name for name in narrow.instructions)


@reads_code
def test_no_kernel_touches_local_memory() -> None:
    for one in kernels():
        assert one.stack == 0, one
        assert not any(name.startswith(("LDL", "STL")) for name in one.instructions), one


@reads_code
def test_registers_stay_below_the_stated_limits() -> None:
    too_many = {
        (one.name, one.architecture): one.registers
        for one in kernels()
        if one.registers > registers_allowed(one.name, one.family, one.architecture)
    }
    assert too_many == {}


@reads_code
def test_occupancy_is_full_but_for_the_stated_kernels() -> None:
    for one, percent in zip(kernels(), occupancies(), strict=True):
        exempt = one.family in MORE or (one.family, one.architecture) in MORE_ON
        least = 37 if one.name in MORE and "double" in one.name else 62 if exempt else 100
        assert percent >= least, (one.name, one.architecture, one.registers, percent)


def test_the_library_loads_and_brings_every_operator() -> None:
    code = (
        "import sys, torch; from nmm_kernels.operators import OPERATORS;"
        "library = torch.library.Library('nmm_probe', 'DEF');"
        "torch.ops.load_library(sys.argv[1]);"
        "print(all(torch._C._dispatch_has_kernel_for_dispatch_key(f'nmm::{o.name}', 'CUDA') for o in OPERATORS))"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(cuda_library())],
        env={"PYTHONPATH": str(KERNELS), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.strip() == "True", ran.stderr
