"""What is marked, trains and was not summed by megatron-core is summed over the tensor group, and nothing else."""

from types import SimpleNamespace

import torch

from megatron_nmm.config import ParallelConfig
from megatron_nmm.parallel import gradients
from megatron_nmm.verify.workers import Place, WorkerPool

NAMES = ("marked", "unmarked", "frozen", "q_layernorm", "split_rows")


def _sums(place: Place, parallel: ParallelConfig, qk_layernorm: bool) -> dict[str, float]:
    """Each parameter's gradient after the sums; before them it is 1 on the first tensor rank and 10 on the second."""
    model = torch.nn.Module()
    model.config = SimpleNamespace(sequence_parallel=parallel.sequence, qk_layernorm=qk_layernorm)  # type: ignore[assignment]
    for name in NAMES:
        p = torch.nn.Parameter(torch.zeros(1), requires_grad=name != "frozen")
        p.main_grad = torch.full((1,), 10.0**place.rank)  # type: ignore[attr-defined]
        p.sequence_parallel = name == "split_rows"  # type: ignore[attr-defined]
        if name != "unmarked":
            gradients.sum_over_tensor_group(p)
        setattr(model, name, p)
    with place.world(parallel) as world:
        gradients._sum_marked(model, world.groups.tp)
    return {name: p.main_grad.item() for name, p in model.named_parameters()}  # type: ignore[attr-defined]


def test_only_what_is_marked_and_trains_is_summed(pool: WorkerPool) -> None:
    first, second = pool.run(2, _sums, ParallelConfig(tensor=2), False)
    assert first == {"marked": 11, "unmarked": 1, "frozen": 1, "q_layernorm": 11, "split_rows": 11}
    assert second == {**first, "unmarked": 10, "frozen": 10}


def test_what_megatron_core_sums_is_left_to_it(pool: WorkerPool) -> None:
    first, _ = pool.run(2, _sums, ParallelConfig(tensor=2, sequence=True), True)
    assert first == {"marked": 11, "unmarked": 1, "frozen": 1, "q_layernorm": 1, "split_rows": 1}
