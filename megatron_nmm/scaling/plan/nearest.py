"""The papers' model nearest to a planned size, and what a law says of it at the same budget."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from megatron_nmm.config import presets
from megatron_nmm.config.schema_model import ModelConfig
from megatron_nmm.models.accounting.parameters import parameters
from megatron_nmm.scaling.law import Fitted
from megatron_nmm.scaling.plan.optimum import tokens_for

PRESETS: Mapping[str, tuple[tuple[str, ...], Callable[[str], ModelConfig], str]] = {
    "early": (tuple(presets.EARLY_FUSION), presets.early_fusion, "early_fusion"),
    "late": (tuple(presets.LATE_FUSION), presets.late_fusion, "late_fusion"),
    "sparse": (tuple(presets.EARLY_FUSION), presets.sparse_early_fusion, "sparse_early_fusion"),
    "modality_ffn": (presets.MODALITY_AWARE, presets.modality_aware, "modality_aware"),
    "navil": (tuple(presets.NAVIL), presets.navil, "navil"),
}
"""Family -> labels, the function that makes the model, and its name in config/presets.py."""


@dataclass(frozen=True)
class Preset:
    """A model of the papers, trained with the whole budget."""

    name: str
    """As config/presets.py makes it."""
    parameters: float
    """N."""
    tokens: float
    loss: float
    distance: float
    """How many times as large or as small as the planned one it is."""


def nearest(fitted: Fitted, size: float, flops: float) -> Preset:
    """The preset of the fit's family whose N is nearest to ``size``, with the tokens that ``flops`` pay for."""
    labels, make, name = PRESETS[fitted.family]
    counted = {label: float(parameters(make(label)).paper) for label in labels}
    label = min(counted, key=lambda one: abs(math.log(counted[one] / size)))
    n = counted[label]
    tokens = tokens_for(fitted, n, flops)
    distance = max(n / size, size / n)
    return Preset(f'{name}("{label}")', n, tokens, float(fitted.law.loss(n, tokens)), distance)
