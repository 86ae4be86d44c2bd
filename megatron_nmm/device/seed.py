"""Start the random states of a rank: one shared by replicas, one of its own per tensor rank."""

from contextlib import AbstractContextManager

import torch


def start(seed: int) -> None:
    """Seed the host's and megatron-core's model-parallel generators; call once the groups exist."""
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed, force_reset_rng=True)


def of_experts() -> AbstractContextManager[None]:
    """The random state that this rank's sparse experts are drawn from: other ranks draw other experts."""
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker, get_expert_parallel_rng_tracker_name

    state: AbstractContextManager[None] = get_cuda_rng_tracker().fork(get_expert_parallel_rng_tracker_name())
    return state
