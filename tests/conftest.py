"""Fixtures shared by the suite: worker processes that live as long as the tests, and a device started once."""

from collections.abc import Iterator

import pytest

from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.verify.workers import WorkerPool


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    """Up to four processes that import the engine once for the whole session."""
    with WorkerPool(4) as workers:
        yield workers


@pytest.fixture(scope="session")
def cpu() -> CpuDevice:
    """The CPU device, started in the test process itself: two threads, megatron-core patched."""
    device = CpuDevice()
    device.start(local_rank=0, local_size=1, threads=2)
    return device
