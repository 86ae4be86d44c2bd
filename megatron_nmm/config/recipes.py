"""What each 8-bit recipe is and needs, as a table: formats, blocks, GPU, software, sizes that divide.

Limits of hardware and software are those that Transformer Engine 2.20 asks at run time (pytorch/quantization.py,
pytorch/utils.py) and the releases in which each recipe came (common/recipe of its tags 2.1 to 2.3).
"""

from dataclasses import dataclass
from typing import Literal

from megatron_nmm.config.schema import PrecisionConfig, Recipe
from megatron_nmm.config.versions import Version

Format = Literal["e4m3", "e5m2"]


@dataclass(frozen=True)
class RecipeFacts:
    """One recipe."""

    engine: str
    """megatron-core's word for it (TransformerConfig.fp8_recipe)."""
    title: str
    gradients: Format
    """Format of gradients when nothing else is asked for."""
    capability: Version
    """Lowest compute capability of the GPU."""
    below: Version | None
    """First compute capability that does not have it any more; None = all later ones do."""
    toolkit: Version
    """Lowest release of the GPU toolkit that torch is built for."""
    transformer_engine: Version
    """First release with it."""
    rows: int
    """Tokens of every product are a multiple of this; so are those of each expert."""
    columns: int
    """Widths, the inputs and outputs of every matrix on its rank, are multiples of this."""

    def runs_on(self, capability: Version) -> bool:
        """Whether a GPU of this compute capability has it."""
        return self.capability <= capability and (self.below is None or capability < self.below)


PLAIN: Recipe = "plain"

STATE = ("fp8_scale", "fp8_amax")
"""Buffers in which a layer keeps what delayed scaling remembers; checkpoints have them under these names."""

RECIPES: dict[Recipe, RecipeFacts] = {
    "fp8_delayed": RecipeFacts("delayed", "FP8, delayed scaling", "e5m2", (8, 9), None, (12, 1), (1, 7), 16, 16),
    "fp8_current": RecipeFacts("tensorwise", "FP8, current scaling", "e5m2", (8, 9), None, (12, 1), (2, 2), 16, 16),
    "fp8_blockwise": RecipeFacts("blockwise", "FP8, blocks of 128", "e4m3", (9, 0), None, (12, 9), (2, 3), 16, 16),
    "mxfp8": RecipeFacts("mxfp8", "MXFP8, blocks of 32", "e4m3", (10, 0), (12, 0), (12, 8), (2, 1), 32, 32),
}
"""Every recipe but plain."""

GPUS: tuple[tuple[Version, str], ...] = (
    ((8, 9), "Ada (L4, L40S)"),
    ((9, 0), "Hopper (H100, H200)"),
    ((10, 0), "Blackwell (B200, GB200)"),
)
"""Compute capability -> whose it is, to name what a recipe needs."""


def facts(precision: PrecisionConfig) -> RecipeFacts | None:
    """The row of the table; None of a plain run."""
    return RECIPES.get(precision.recipe)


def gradient_format(precision: PrecisionConfig) -> Format:
    """What gradients are cast to; e4m3, which is not read, of a plain run."""
    if precision.gradients != "auto":
        return precision.gradients
    row = facts(precision)
    return row.gradients if row else "e4m3"


def row_multiple(precision: PrecisionConfig) -> int:
    """What tokens of every product, and of each expert, are a multiple of; 1 of a plain run."""
    row = facts(precision)
    return row.rows if row else 1


def is_state(key: str) -> bool:
    """Whether the tensor ``key`` of a model is such a buffer, no weight: without it a run starts with scales of 1."""
    return key.endswith(STATE)
