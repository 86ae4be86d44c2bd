"""Who multiplies for a run: one decision, from its recipe and its device."""

from typing import Literal

from megatron_nmm.config import PrecisionConfig
from megatron_nmm.config.recipes import PLAIN
from megatron_nmm.device.protocol import Device

Backend = Literal["local", "emulated", "transformer_engine"]
"""local: megatron-core's own layers, as plain runs have them. emulated: the same with their operands cast by torch.
transformer_engine: megatron-core's layers on it."""


def backend(precision: PrecisionConfig, device: Device) -> Backend:
    """The backend of transformer layers that are not plain."""
    if precision.recipe == PLAIN:
        return "local"
    return "transformer_engine" if device.eight_bit_products and not precision.emulate else "emulated"
