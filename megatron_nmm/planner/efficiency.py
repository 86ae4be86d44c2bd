"""How much of a data sheet's rates a step is taken to reach: the planner's assumptions, none of them measured here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_nmm.config.values import nearest_key
from megatron_nmm.errors import ConfigError


@dataclass(frozen=True)
class Assumption:
    """One number that the time of a step is predicted with."""

    value: float
    of: str
    """What it is a share of, or a count of."""


ASSUMPTIONS: dict[str, Assumption] = {
    "products": Assumption(0.60, "of the peak rate in matrix products"),
    "attention": Assumption(0.35, "of the bf16 peak rate in core attention, forward and backward"),
    "experts": Assumption(0.45, "of the peak rate in grouped products of sparse experts"),
    "memory": Assumption(0.80, "of the memory bandwidth in everything else a layer does"),
    "node": Assumption(0.75, "of the bandwidth between GPUs of a node"),
    "network": Assumption(0.80, "of the bandwidth between nodes"),
    "tensor_overlap": Assumption(0.0, "of the tensor, context and expert groups' traffic hidden behind products"),
    "data_overlap": Assumption(0.8, "of gradients and weights hidden behind products, where parallel.overlap_* is on"),
    "usable": Assumption(0.90, "of the GPU's memory for tensors: driver, communication buffers, gaps take the rest"),
}
"""Name -> assumption; ``--efficiency NAME=VALUE`` sets one."""

COMPUTE = ("products", "attention", "experts")
"""What ``--efficiency VALUE`` sets, all alike."""

Shares = Mapping[str, float]


def shares(changes: Sequence[str] = ()) -> dict[str, float]:
    """The table's values with ``changes``, each ``NAME=VALUE`` or a VALUE for all of COMPUTE; ConfigError when one does
    not fit."""
    found = {name: assumption.value for name, assumption in ASSUMPTIONS.items()}
    for change in changes:
        name, equals, text = change.rpartition("=")
        if equals and name not in found:
            nearest = nearest_key(name, found)
            raise ConfigError(
                f"--efficiency {change}: {name} is no assumption; the nearest is {nearest}, all are {', '.join(found)}"
            )
        overlap = name.endswith("_overlap")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (0 <= value <= 1 if overlap else 0 < value <= 1):
            wanted = "from 0 to 1" if overlap else "above 0 and at most 1"
            example = f"{name}=0.5" if name else "0.5"
            raise ConfigError(
                f"--efficiency {change}: {text!r} is no share {wanted}; write e.g. --efficiency {example}"
            )
        found.update(dict.fromkeys((name,) if name else COMPUTE, value))
    return found
