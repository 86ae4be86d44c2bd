"""The fits that a question is about: one of each family, of one kind of loss and one mixture."""

from collections.abc import Sequence

from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling.law import Fitted


def choose(fits: Sequence[Fitted], families: Sequence[str], kind: str, mixture: str | None) -> tuple[Fitted, ...]:
    """Those of ``families`` (all where it is empty) with that loss and mixture, one each.

    ``mixture`` may be None where the fits have one alone. Raises ConfigError that says what there is.
    """
    if not fits:
        raise ConfigError("the fit holds no law; see what tools/fit.py said, its warnings name the reason")
    chosen = _with(fits, "kind", kind, "--kind")
    mixtures = sorted({one.mixture for one in chosen})
    if mixture is None and len(mixtures) > 1:
        raise ConfigError(f"the fit has {len(mixtures)} mixtures, {', '.join(mixtures)}; choose one with --mixture")
    chosen = _with(chosen, "mixture", mixture or mixtures[0], "--mixture")
    there = [one.family for one in chosen]
    for family in families or there:
        if family not in there:
            raise ConfigError(f"the fit has no {family} models, only {', '.join(there)}; train some, or leave it out")
        if there.count(family) > 1:
            raise ConfigError(f"the fit has {there.count(family)} laws of {family}; keep those of one study")
    return tuple(one for one in chosen if one.family in (families or there))


def _with(fits: Sequence[Fitted], field: str, value: str, option: str) -> list[Fitted]:
    found = [one for one in fits if getattr(one, field) == value]
    if not found:
        there = ", ".join(sorted({getattr(one, field) for one in fits}))
        raise ConfigError(f"the fit has no {field} {value}; {option} may be {there}")
    return found
