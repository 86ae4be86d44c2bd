"""Points of studies that never ran: losses from a law, with noise on demand."""

import numpy as np

from megatron_nmm.scaling.law import Law
from megatron_nmm.scaling.papers.published import DEPTH_24
from megatron_nmm.scaling.point import Point, study_flops

TOKENS = (5e9, 20e9, 80e9, 300e9)


def point(run: str = "a", losses: dict[str, float] | None = None, **changes: object) -> Point:
    """A dense early point; ``changes`` replace its fields."""
    known = {"active": 1e9, "tokens": 20e9, "vision": 0.0, "vision_tokens": 0.0, **changes}
    fields: dict[str, object] = {
        "study": "toy",
        "family": "early",
        "size": f"{float(str(known['active'])) / 1e9:.3g}b",
        "mixture": "45-45-10",
        "seed": 0,
        "total": known["active"],
        "flops": study_flops(*(float(str(known[k])) for k in ("active", "vision", "tokens", "vision_tokens"))),
        "counted_flops": 0.0,
        "losses": losses or {"caption": 2.5, "text": 3.0},
    }
    return Point(run=run, **{**fields, **known})  # type: ignore[arg-type]


def grid(
    law: Law,
    noise: float = 0.0,
    seed: int = 0,
    sizes: tuple[float, ...] = DEPTH_24,
    tokens: tuple[float, ...] = TOKENS,
    **changes: object,
) -> tuple[Point, ...]:
    """Every size at every number of tokens; the logarithm of a loss gets normal noise of deviation ``noise``."""
    random = np.random.default_rng(seed)
    out = []
    for n in sizes:
        for d in tokens:
            loss = float(law.loss(n, d) * np.exp(noise * random.standard_normal()))
            out.append(point(f"{n:.4g}-{d:.4g}", {"text": loss}, active=n, tokens=d, **changes))
    return tuple(out)
