"""Parallel linear layers that leave the communication to the module that holds them.

Two experts share one residual stream: it is gathered once before both and reduced once after both, so their own
matrices must do neither. Shapes: n rows, t tensor ranks, K inputs, F outputs.
"""

from typing import Any

from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)


class LocalColumnParallelLinear(ColumnParallelLinear):
    """[n, 1, K] whole rows -> [n, 1, F / t]; the gradient of its input is this rank's share of a sum."""

    def __init__(self, *sizes: int, **settings: Any) -> None:
        """As megatron-core's layer."""
        super().__init__(*sizes, disable_grad_reduce=True, **settings)
        # With its rows gathered already, the layer must not gather them itself.
        self.sequence_parallel = False


class LocalRowParallelLinear(RowParallelLinear):
    """[n, 1, K / t] -> [n, 1, F], this rank's share of a sum."""

    def __init__(self, *sizes: int, **settings: Any) -> None:
        """As megatron-core's layer, which is told that its caller communicates, as the callers of sparse experts do."""
        super().__init__(*sizes, **settings)
        self.explicit_expert_comm = True


def enter_tensor_region(hidden: Any, config: Any, group: Any) -> Any:
    """[T (/ t), 1, H] of the residual stream -> [T, 1, H] for matrices split over ``group``; gradients are summed."""
    if config.sequence_parallel:
        return gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True, group=group)
    return copy_to_tensor_model_parallel_region(hidden, group=group)


def leave_tensor_region(hidden: Any, config: Any, group: Any) -> Any:
    """[T, 1, H] shares of a sum -> [T (/ t), 1, H] of the residual stream."""
    if config.sequence_parallel:
        return reduce_scatter_to_sequence_parallel_region(hidden, group=group)
    return reduce_from_tensor_model_parallel_region(hidden, group=group)
