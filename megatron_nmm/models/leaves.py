"""The modules that a device and a number format bring to the spec trees, as a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from megatron_nmm.config import PrecisionConfig
from megatron_nmm.config.schema import Dtype
from megatron_nmm.device.protocol import Device, Elementwise
from megatron_nmm.models.norm import FewPassRMSNorm, RMSNorm
from megatron_nmm.models.sparse.emulated import emulated_experts
from megatron_nmm.models.sparse.experts import GroupedExperts, LoopedExperts
from megatron_nmm.models.swiglu import SwiGLU
from megatron_nmm.precision.emulate import emulated
from megatron_nmm.precision.select import Backend, backend


def as_it_is(layer_class: Any) -> Any:
    """megatron-core's layer itself."""
    return layer_class


@dataclass(frozen=True)
class Leaves:
    """What stands at the ends of the tree."""

    norm: Any
    activation: type[SwiGLU] | None
    """None = megatron-core's own fused SwiGLU."""
    experts: Any
    expert_rows: Mapping[Dtype, int] = field(default_factory=dict)
    """What the rows of each sparse expert are filled up to a multiple of, by the run's dtype; not named = 1."""
    linear: Callable[[Any], Any] = as_it_is
    """From a parallel linear layer's class to what builds it: where a matrix product is another's."""
    norm_and_column: Any = None
    """What builds a norm and the column-parallel layer behind it in one; None = they stand apart."""


PLAIN: dict[Elementwise, Leaves] = {
    "compiled": Leaves(RMSNorm, None, GroupedExperts),
    # Weight gradients sum over rows, and processors' bf16 tiles are 32 deep: a last tile in part costs a tenth.
    "few_passes": Leaves(FewPassRMSNorm, SwiGLU, LoopedExperts, {"bf16": 32}),
}
"""Those of products in the run's dtype."""


def leaves(precision: PrecisionConfig, device: Device) -> Leaves:
    """The leaves of layers that are not plain."""
    return BACKENDS[backend(precision, device)](PLAIN[device.elementwise], precision)


def _emulated(own: Leaves, precision: PrecisionConfig) -> Leaves:
    return replace(own, linear=partial(emulated, precision=precision), experts=emulated_experts(precision))


def _transformer_engine(own: Leaves, precision: PrecisionConfig) -> Leaves:
    # Here, because it is there on GPUs alone.
    from megatron_nmm.models import transformer_engine as engine

    return replace(
        own,
        linear=engine.linear_layers().__getitem__,
        experts=engine.grouped_experts(),
        norm_and_column=engine.norm_and_column(),
    )


BACKENDS: dict[Backend, Callable[[Leaves, PrecisionConfig], Leaves]] = {
    "local": lambda own, precision: own,
    "emulated": _emulated,
    "transformer_engine": _transformer_engine,
}
"""What makes of plain leaves those of each backend."""


def layer_leaves(precision: PrecisionConfig, device: Device, layer: int, layers: int) -> Leaves:
    """Those of decoder layer ``layer`` (from 0) of ``layers``: the first and the last may be plain.

    Plain layers on Transformer Engine are its layers too: megatron-core leaves them out of the recipe as it runs them.
    """
    if backend(precision, device) == "transformer_engine":
        return leaves(precision, device)
    plain = layer < precision.plain_first or layer >= layers - precision.plain_last
    return PLAIN[device.elementwise] if plain else leaves(precision, device)
