"""Start the random states of a rank: one shared by replicas, one of its own per tensor rank."""

import torch


def start(seed: int) -> None:
    """Seed the host's and megatron-core's model-parallel generators; call once the groups exist."""
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
