"""How numbers of a study are written: 6.15 B, 271 B tokens, 2.47 (2.46 to 2.50)."""

from collections.abc import Callable

from megatron_nmm.scaling.estimate import Estimate

UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
"""B is 10^9, as the papers have it."""

FAMILY_WORDS = {
    "early": "early fusion",
    "late": "late fusion",
    "sparse": "early fusion, sparse experts",
    "modality_ffn": "early fusion, an MLP per modality",
    "navil": "NaViL",
}

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"
"""Where there is no value."""


def amount(value: float) -> str:
    """``6153234528`` as ``6.15 B``."""
    for size, unit in UNITS:
        if value >= 0.9995 * size:
            return f"{_three(value / size)} {unit}"
    return _three(value)


def _three(value: float) -> str:
    """Three figures, and never an exponent below 10,000."""
    return f"{value:.0f}" if 100 <= value < 1e4 else f"{value:.3g}"


def times(factor: float) -> str:
    """``5.54`` or ``1,000``."""
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def power(value: float) -> str:
    """FLOPs: ``1e22``, ``2.3e14``."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def loss(value: float) -> str:
    """Nats, to the third place."""
    return f"{value:.3f}".replace("-", MINUS)


def with_interval(estimate: Estimate, word: Callable[[float], str]) -> str:
    """``6.15 B (4.29 B to 9.62 B)``; the value alone where no interval is known."""
    if estimate.low is None or estimate.high is None:
        return word(estimate.value)
    return f"{word(estimate.value)} ({word(estimate.low)} to {word(estimate.high)})"


def family(name: str) -> str:
    """In words."""
    return FAMILY_WORDS.get(name, name)
