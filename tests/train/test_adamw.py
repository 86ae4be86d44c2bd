"""AdamW agrees with torch's, keeps FusedAdam's state layout and decays in both of the ways a run can ask for."""

from copy import deepcopy

import pytest
import torch

from megatron_nmm.train.adamw import AdamW

SHAPES = ((33, 7), (5,), (4, 3, 2))


def _twins(seed: int = 0) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [torch.nn.Parameter(v.clone()) for v in values], [torch.nn.Parameter(v.clone()) for v in values]


def _set_gradients(step: int, *sides: list[torch.nn.Parameter], scale: float = 1.0) -> None:
    for side in sides:
        generator = torch.Generator().manual_seed(100 + step)
        for param in side:
            param.grad = torch.randn(param.shape, generator=generator) * scale


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_torch_adamw(weight_decay: float) -> None:
    ours, theirs = _twins()
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": weight_decay}
    optimizer = AdamW([{"params": ours}], **settings)  # type: ignore[arg-type]
    reference = torch.optim.AdamW(theirs, **settings)  # type: ignore[arg-type]
    for step in range(20):
        _set_gradients(step, ours, theirs)
        optimizer.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_state_layout_is_fused_adams() -> None:
    ours, _ = _twins()
    optimizer = AdamW([{"params": ours}], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    _set_gradients(0, ours)
    optimizer.step()
    assert [set(optimizer.state[p]) for p in ours] == [{"exp_avg", "exp_avg_sq"}] * len(SHAPES)
    assert optimizer.param_groups[0]["step"] == 1


def test_state_dict_round_trip_continues_bit_for_bit() -> None:
    ours, copies = _twins()
    make = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    first, second = AdamW([{"params": ours}], **make), AdamW([{"params": copies}], **make)  # type: ignore[arg-type]
    for step in range(3):
        _set_gradients(step, ours)
        first.step()
    for a, b in zip(ours, copies, strict=True):
        b.data.copy_(a)
    second.load_state_dict(deepcopy(first.state_dict()))
    _set_gradients(3, ours, copies)
    first.step()
    second.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, copies, strict=True))


def test_gradient_divisor_divides() -> None:
    ours, theirs = _twins()
    make = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
    divided, plain = AdamW([{"params": ours}], **make), AdamW([{"params": theirs}], **make)  # type: ignore[arg-type]
    divided.gradient_divisor = 4.0
    for step in range(3):
        _set_gradients(step, ours, scale=4.0)
        _set_gradients(step, theirs)
        divided.step()
        plain.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_parameters_without_a_gradient_stay() -> None:
    ours, before = _twins()
    optimizer = AdamW([{"params": ours}], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.5)
    _set_gradients(0, ours[:1])
    optimizer.step()
    assert not torch.equal(ours[0], before[0])
    assert all(torch.equal(a, b) for a, b in zip(ours[1:], before[1:], strict=True))
