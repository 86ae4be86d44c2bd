"""Every kernel that is wrong on purpose is caught, by the build that has to, and the right ones pass all builds."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.kernels.toolchain import made_program, missing_for_emulator

pytestmark = pytest.mark.skipif(missing_for_emulator() is not None, reason=missing_for_emulator() or "")

BUILDS = {
    "emulator": ("-O1",),
    "address": ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-O1", "-g", "-fsanitize=thread"),
}

CAUGHT = {
    "barrier_in_a_branch": ("emulator", "waits at __syncthreads, which not every thread of the block reaches"),
    "mask_of_absent_lanes": ("emulator", "waits at a warp collective, which not every lane of its mask reaches"),
    "lanes_that_left": ("emulator", "waits at a warp collective, which not every lane of its mask reaches"),
    "source_outside_the_mask": ("emulator", "__shfl_sync reads a lane outside its mask"),
    "two_collectives_at_once": ("emulator", "meets __ballot_sync of lanes of the same warp"),
    "shared_never_set": ("emulator", "the result is wrong"),
    "last_writer_wins": ("emulator", "the result depends on the order of threads"),
    "shared_out_of_bounds": ("address", "index 100 out of bounds"),
    "dynamic_shared_out_of_bounds": ("address", "AddressSanitizer: heap-buffer-overflow"),
    "global_out_of_bounds": ("address", "AddressSanitizer: heap-buffer-overflow"),
    "misaligned_vector": ("address", "misaligned address"),
    "missing_block_barrier": ("thread", "ThreadSanitizer: data race"),
    "missing_warp_barrier": ("thread", "ThreadSanitizer: data race"),
    "missing_barrier_at_the_end_of_a_loop": ("thread", "ThreadSanitizer: data race"),
    "sum_across_blocks_without_atomic": ("thread", "ThreadSanitizer: data race"),
    "barriers_between_blocks": ("thread", "ThreadSanitizer: data race"),
}
"""Wrong kernel -> the build that catches it and what that says."""
RIGHT = ("right_sum", "right_warps")


def program(build: str) -> Path:
    """wrong_kernels.cpp compiled that way."""
    return made_program(f"wrong_kernels_{build}", "wrong_kernels.cpp", *BUILDS[build])


def run(build: str, *names: str) -> subprocess.CompletedProcess[str]:
    """Run one kernel; the sanitizers' words come with the output."""
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    command = [str(program(build)), *names]
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


@pytest.mark.parametrize("name", CAUGHT)
def test_a_wrong_kernel_is_caught(name: str) -> None:
    build, words = CAUGHT[name]
    ran = run(build, name)
    assert ran.returncode != 0
    assert words in ran.stdout


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_kernel_passes(name: str, build: str) -> None:
    ran = run(build, name)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_every_kernel_of_the_file_is_judged() -> None:
    assert set(run("emulator").stdout.split()) == {*CAUGHT, *RIGHT}
