"""megatron-core runs on the CPU: the patches still have their places, and random states are kept apart."""

import logging
from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.device import mcore_on_cpu
from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.device.mcore_on_cpu import NORM_ROW, joint_norm
from megatron_nmm.verify import layouts
from megatron_nmm.verify.workers import Place, WorkerPool


def test_every_patch_still_has_its_place() -> None:
    assert mcore_on_cpu.missing_anchors() == []


def test_a_release_without_the_place_is_named() -> None:
    gone = replace(mcore_on_cpu.PATCHES[0], anchor="text no release has")
    assert mcore_on_cpu.missing_anchors((gone,)) == ["patch_torch_names"]


def test_torch_itself_is_untouched_for_everybody_else(cpu: CpuDevice) -> None:
    assert not hasattr(torch, "_original")
    assert torch.zeros(1).type() == "torch.FloatTensor"
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            torch.zeros(1).cuda()


def _unpatched_after_a_step(place: Place) -> list[str]:
    from megatron_nmm.models.build import build
    from megatron_nmm.parallel.schedule import forward_backward
    from megatron_nmm.verify import synthetic

    run = layouts.toy(RunConfig())
    with place.world(run.parallel) as world:
        forward_backward(build(run, world), synthetic.batches(run, 1, seed=1), world)
    return mcore_on_cpu.unpatched_modules()


def test_no_module_of_a_training_step_sees_the_real_torch(pool: WorkerPool) -> None:
    assert pool.run(1, _unpatched_after_a_step)[0] == []


def test_forks_draw_from_their_own_state_and_leave_the_host_alone(
    cpu: CpuDevice, caplog: pytest.LogCaptureFixture
) -> None:
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    tracker = CudaRNGStatesTracker()
    tracker.add("a", 1)
    tracker.add("b", 2)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with caplog.at_level(logging.WARNING), tracker.fork("a"):
        first = torch.rand(3)
    with tracker.fork("b"):
        other = torch.rand(3)
    with tracker.fork("a"):
        second = torch.rand(3)
    assert torch.equal(torch.rand(3), expected), "a fork moved the state outside it"
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(first, torch.rand(3, generator=generator))
    assert torch.equal(second, torch.rand(3, generator=generator)), (
        "the second fork did not go on where the first ended"
    )
    assert not torch.equal(first, other)
    assert "CPU RNG state changed" not in caplog.text


@pytest.mark.parametrize(
    "sizes", [(0,), (1,), (NORM_ROW,), (3 * NORM_ROW + 5, 7, 0, NORM_ROW - 1)], ids=["none", "one", "a row", "mixed"]
)
def test_the_joint_norm_is_that_of_all_tensors_laid_end_to_end(sizes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator) for size in sizes]
    norm, _ = joint_norm(0, torch.zeros(1), [tensors], False)
    assert norm.shape == (1,)
    torch.testing.assert_close(norm[0].double(), torch.cat(tensors).double().norm(), rtol=1e-6, atol=0.0)
    if sizes[0]:
        tensors[0][-1] = float("nan")
        assert joint_norm(0, torch.zeros(1), [tensors], False)[0].isnan().all()
