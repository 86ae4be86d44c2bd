"""megatron-core's own parallel linear layers with their products in emulated 8 bits: the backend for any device.

Parameters, names, shards and communication stay megatron-core's; only what a layer calls to multiply is replaced, by
one that gathers what the layer would gather.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from megatron_nmm.config import PrecisionConfig
from megatron_nmm.config.recipes import STATE
from megatron_nmm.precision.casts import BLOCKS, BlockCasts, Casts, CurrentCasts
from megatron_nmm.precision.delayed import DelayedCasts, first_state
from megatron_nmm.precision.product import Counts, product


def emulated(layer_class: Callable[..., Any], precision: PrecisionConfig) -> Callable[..., Any]:
    """What builds a ``layer_class``, megatron-core's column- or row-parallel layer, that multiplies by the recipe."""

    def build(*sizes: Any, **settings: Any) -> Any:
        layer = layer_class(*sizes, **settings)
        casts = casts_of(precision, layer, amax_group(precision), layer.weight.device)
        layer._forward_impl = EmulatedProduct(layer, casts)
        return layer

    return build


class EmulatedProduct:
    """In place of a layer's ``_forward_impl``, under megatron-core's signature."""

    def __init__(self, layer: Any, casts: Casts) -> None:
        # A tuple registers nothing: the layer holds this object already.
        self._layer, self.casts, self.counts = (layer,), casts, Counts()

    def __call__(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        gradient_accumulation_fusion: bool,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        tp_group: Any,
        **_: Any,
    ) -> torch.Tensor:
        """[T (/ t), 1, K] -> [T, 1, N]; the gradient of ``input`` is summed over ``tp_group`` where asked for."""
        from megatron.core.tensor_parallel.mappings import (
            copy_to_tensor_model_parallel_region,
            gather_from_sequence_parallel_region,
        )

        (layer,) = self._layer
        if sequence_parallel:
            input = gather_from_sequence_parallel_region(input, tensor_parallel_output_grad=True, group=tp_group)
        elif allreduce_dgrad:
            input = copy_to_tensor_model_parallel_region(input, group=tp_group)
        out = product(
            input,
            weight,
            self.casts,
            self.counts,
            recomputes=layer.config.recompute_granularity == "full",
            training=layer.training,
            into_buffer=gradient_accumulation_fusion and hasattr(weight, "main_grad"),
        )
        return out if bias is None else out + bias


def casts_of(precision: PrecisionConfig, owner: torch.nn.Module, group: Any, device: torch.device) -> Casts:
    """The casts of one layer; ``owner`` gets the buffers of delayed scaling, if it is that."""
    if precision.recipe in BLOCKS:
        return BlockCasts(precision)
    if precision.recipe == "fp8_current":
        return CurrentCasts(precision, group)
    state = first_state(precision, device)
    for name, buffer in zip(STATE, state, strict=True):
        owner.register_buffer(name, buffer)
    return DelayedCasts(precision, group, *state)


def amax_group(precision: PrecisionConfig) -> dist.ProcessGroup | None:
    """Who shares an amax: with delayed scaling megatron-core's group for it, else the tensor group; None = nobody."""
    from megatron.core import parallel_state

    if precision.recipe in BLOCKS:
        return None
    if precision.recipe == "fp8_current":
        return parallel_state.get_tensor_model_parallel_group()  # type: ignore[no-any-return]
    over_tensor = precision.amax_over == "tensor"
    return parallel_state.get_amax_reduction_group(with_context_parallel=True, tp_only_amax_red=over_tensor)  # type: ignore[no-any-return]
