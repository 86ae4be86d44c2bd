"""What would fail or stall on the cluster is named with its line: stray tensors, waits, uploads, wrong shapes."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import pytest
import torch

from megatron_nmm.config import ParallelConfig
from megatron_nmm.dry_run.rank import DryRunError, Job, dry_run
from megatron_nmm.models.patch_stem import PatchStem
from megatron_nmm.verify.workers import Place, WorkerError, WorkerPool
from tests.dry_run.models import small

Stem = Callable[[Any, torch.Tensor], torch.Tensor]
FORWARD: Stem = PatchStem.forward


def stray(self: Any, patches: torch.Tensor) -> torch.Tensor:
    out = FORWARD(self, patches)
    return out * torch.ones(out.shape[-1])


def stray_index(self: Any, patches: torch.Tensor) -> torch.Tensor:
    out = FORWARD(self, patches)
    return out[torch.arange(len(out))]


def reads(self: Any, patches: torch.Tensor) -> torch.Tensor:
    out = FORWARD(self, patches)
    return out * min(1.0, out.sum().item())


def branches(self: Any, patches: torch.Tensor) -> torch.Tensor:
    out = FORWARD(self, patches)
    return out if (patches > 0).any() else out * 1


def reads_a_list(self: Any, patches: torch.Tensor) -> torch.Tensor:
    return FORWARD(self, patches[: len(patches[:, 0].tolist())])


def sized_by_data(self: Any, patches: torch.Tensor) -> torch.Tensor:
    out = FORWARD(self, patches)
    return out if (patches[:, 0] > 0).nonzero().shape[0] else out * 1


def to_numpy(self: Any, patches: torch.Tensor) -> torch.Tensor:
    return FORWARD(self, patches * float(patches[0].detach().numpy().sum()))


def uploads(self: Any, patches: torch.Tensor) -> torch.Tensor:
    return FORWARD(self, patches) * torch.ones(1).expand(1).to(patches.device)


def number_of_the_host(self: Any, patches: torch.Tensor) -> torch.Tensor:
    return FORWARD(self, patches) * torch.tensor(2.0, device=patches.device)


def host_arithmetic(self: Any, patches: torch.Tensor) -> torch.Tensor:
    """Numbers of the host are no fault, nor is work of the host on its own tensors, nor what it sends and goes on."""
    scale = torch.ones(3).sum()
    more = torch.zeros(1).to(patches.device, non_blocking=True)
    return FORWARD(self, patches) * scale + float(scale.item()) + more


def wrong_shape(self: Any, patches: torch.Tensor) -> torch.Tensor:
    return FORWARD(self, patches[:, 1:])


def with_stem(forward: Stem) -> AbstractContextManager[Any]:
    return patch.object(PatchStem, "forward", forward)


def dry(place: Place, forward: Stem) -> tuple[str, ...]:
    with with_stem(forward):
        return dry_run(Job.of(small("early", ParallelConfig(tensor=2)), 4, "gpu"), 0).faults


def line(function: Callable[..., Any], last: bool = True) -> str:
    """The file and number of the function's last line, as a report gives it."""
    lines = [number for _, _, number in function.__code__.co_lines() if number]
    return f"tests/dry_run/test_faults.py:{max(lines)} in {function.__name__}"


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (stray, r"aten.mul.Tensor takes a cpu tensor \[64\]"),
        (stray_index, r"aten.index.Tensor takes a cpu tensor \[\d+\]"),
        (reads, r"the host waits \(reads\)"),
        (branches, r"the host waits \(reads\)"),
        (reads_a_list, r"the host waits \(reads\)"),
        (sized_by_data, r"the host waits \(reads\)"),
        (to_numpy, r"the host waits \(reads\)"),
        (uploads, r"the host waits \(uploads and waits\)"),
        (number_of_the_host, r"the host waits \(uploads and waits\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_is_named_with_its_line(pool: WorkerPool, forward: Stem, told: str) -> None:
    faults = pool.run(1, dry, forward)[0]
    assert len(faults) == 1, faults

    assert re.search(told, faults[0]) and faults[0].endswith(line(forward)), faults


def test_what_is_no_fault(pool: WorkerPool) -> None:
    assert pool.run(1, dry, host_arithmetic)[0] == ()


def refused(place: Place, forward: Stem) -> str:
    with pytest.raises(DryRunError) as raised:
        dry(place, forward)
    return str(raised.value)


def test_a_step_that_cannot_be_taken_names_its_line(pool: WorkerPool) -> None:
    told = pool.run(1, refused, wrong_shape)[0]
    assert told.startswith("rank 0 cannot take its step: RuntimeError: ")
    assert "megatron_nmm/models/patch_stem.py:" in told and "in forward" in told


def test_a_failed_rank_leaves_the_process_as_it_was(pool: WorkerPool) -> None:
    pool.run(1, refused, wrong_shape)
    assert pool.run(1, dry, host_arithmetic)[0] == ()
    with pytest.raises(WorkerError, match="rank 9 is none of a world of 4; use 0 to 3"):
        pool.run(1, outside)


def outside(place: Place) -> None:
    dry_run(Job.of(small("early"), 4, "gpu"), 9)
