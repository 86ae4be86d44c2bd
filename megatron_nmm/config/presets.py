"""P1's early-fusion sizes as a table (Table 6): only the width changes, the depth is 24 throughout."""

from dataclasses import dataclass

from megatron_nmm.config.schema import ModelConfig
from megatron_nmm.config.values import nearest_key
from megatron_nmm.errors import ConfigError


@dataclass(frozen=True)
class Size:
    """One row of P1's Table 6. The label is the parameter count, embeddings included."""

    width: int
    heads: int
    """P1 does not state heads; 16 throughout, and 40 at width 5120 so that a head stays 128 wide."""
    learning_rate: float | None
    """Peak rate; None where P1 reports none."""


EARLY_FUSION: dict[str, Size] = {
    "0.275b": Size(800, 16, 1.5e-3),
    "0.464b": Size(1088, 16, 1.5e-3),
    "0.932b": Size(1632, 16, 5e-4),
    "1.627b": Size(2208, 16, 4.2e-4),
    "2.280b": Size(2624, 16, 4e-4),
    "3.354b": Size(3232, 16, 3.5e-4),
    "8.129b": Size(5120, 40, None),
}


def early_fusion(label: str) -> ModelConfig:
    """The model of one row, e.g. ``early_fusion("0.275b")``; ConfigError names the nearest label."""
    size = _size(label)
    return ModelConfig(layers=24, width=size.width, heads=size.heads, vocabulary=50_432)


def learning_rate(label: str) -> float:
    """P1's peak learning rate for one row; ConfigError where P1 reports none."""
    rate = _size(label).learning_rate
    if rate is None:
        raise ConfigError(
            f"the paper behind the presets reports no learning rate for its {label} model; choose one, at most the "
            f"3.354b model's {EARLY_FUSION['3.354b'].learning_rate}"
        )
    return rate


def _size(label: str) -> Size:
    """The row of ``label``, in either case."""
    if label.lower() not in EARLY_FUSION:
        raise ConfigError(
            f"no early-fusion size is called {label}; the nearest is {nearest_key(label, EARLY_FUSION)}, "
            f"all are {', '.join(EARLY_FUSION)}"
        )
    return EARLY_FUSION[label.lower()]
