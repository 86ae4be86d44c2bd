"""Emulated kernels stay within their memory (AddressSanitizer, UBSan) and do not race (ThreadSanitizer)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.conftest import KERNELS
from tests.kernels.emulated import SANITIZERS, emulated_library
from tests.kernels.toolchain import made_program, missing_for_emulator

pytestmark = pytest.mark.skipif(missing_for_emulator() is not None, reason=missing_for_emulator() or "")

ALL_CASES = """
import sys
import torch
from nmm_kernels.calls import calls
from nmm_kernels.cases import CASES, Case
from tests.kernels.emulated import load

torch.set_num_threads(1)
load(sys.argv[1])
if sys.argv[2] == "all":
    for case in (*CASES, Case(5, 40, 50, 37, torch.float64, align=16, load="dropped")):
        for call in calls(case, case.inputs()):
            getattr(torch.ops.nmm_emulated, call.operator)(*call.arguments)
else:
    x = torch.ones(64, 32)
    short = torch.zeros(64, 1, dtype=torch.int32)
    short.untyped_storage().resize_(63 * 4)  # the last row of the map is not there
    torch.ops.nmm_emulated.permute(x, short, 64)
print("done")
"""


def library_of_compiler(name: str) -> str:
    """The path of one of g++'s own libraries."""
    ran = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return str(Path(ran.stdout.strip()).resolve())


def run_sanitized(what: str) -> subprocess.CompletedProcess[str]:
    """Run the sanitized operators in a Python that has the sanitizers' libraries loaded from its first moment."""
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{library_of_compiler('libasan.so')} {library_of_compiler('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaks
        "PYTHONPATH": os.pathsep.join([str(KERNELS), str(KERNELS.parent)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", ALL_CASES, str(emulated_library(*SANITIZERS)), what]
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def test_no_operator_leaves_its_memory_on_any_case() -> None:
    ran = run_sanitized("all")
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.split()[-1] == "done"


def test_the_sanitizer_sees_the_memory_of_tensors() -> None:
    ran = run_sanitized("too short a row map")
    assert ran.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in ran.stdout


def test_no_kernel_races_and_all_agree_with_plain_loops() -> None:
    program = made_program("plain_loops_thread", "plain_loops.cpp", "-O1", "-g", "-fsanitize=thread")
    ran = subprocess.run([str(program)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "0 differences\n")
