"""The pre-training mixtures of P1 as a table, and how corpora of one's own take the places of its data sets.

P1 (Table 5) gives each data set a share in percent, and further mixtures as caption-interleaved-text triples: 45-45-10
(the one of the table), 40-20-40, 30-30-40 and 20-40-40. It does not say what a share counts; its image to text ratios
(Table 3) fit shares of tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from megatron_nmm.config.values import nearest_key
from megatron_nmm.errors import ConfigError


@dataclass(frozen=True)
class DataSet:
    """One data set of P1's Table 5."""

    kind: str
    percent: Fraction
    """Of the whole mixture."""
    content: str


P1: dict[str, DataSet] = {
    "dfn": DataSet("caption", Fraction("27"), "DFN, 2 B image-caption pairs"),
    "coyo": DataSet("caption", Fraction("11.25"), "COYO, 600 M pairs"),
    "hqitp": DataSet("caption", Fraction("6.75"), "HQITP, 400 M pairs (private)"),
    "obelics": DataSet("interleaved", Fraction("45"), "Obelics, 141 M documents"),
    "dclm": DataSet("text", Fraction("10"), "DCLM, 6.6 T tokens"),
}
KINDS = ("caption", "interleaved", "text")
TRIPLES: dict[str, tuple[int, int, int]] = {
    "p1": (45, 45, 10),
    "45-45-10": (45, 45, 10),
    "40-20-40": (40, 20, 40),
    "30-30-40": (30, 30, 40),
    "20-40-40": (20, 40, 40),
}
"""Preset -> percent of caption, interleaved and text data."""


def shares(preset: str) -> dict[str, Fraction]:
    """Percent of each data set of P1 in a preset, the data sets of one kind in the ratio of Table 5.

    ``preset``: a name, or any caption-interleaved-text triple that makes 100, such as 72-18-10. Raises ConfigError.
    """
    triple = dict(zip(KINDS, _triple(preset), strict=True))
    whole = {kind: sum(entry.percent for entry in P1.values() if entry.kind == kind) for kind in KINDS}
    return {
        name: entry.percent * triple[entry.kind] / whole[entry.kind] for name, entry in P1.items() if triple[entry.kind]
    }


def weights(preset: str, corpora: Mapping[str, str]) -> dict[str, float]:
    """Role -> weight in percent, for ``corpora`` given as role -> folder.

    A role is a data set (``dfn``) or a kind (``caption``), which takes the share of all its data sets that have no
    corpus of their own. Raises ConfigError for an unknown preset or role, a role without a share, and a share without a
    corpus.
    """
    left = shares(preset)
    _require_known(preset, corpora)
    found: dict[str, Fraction] = {role: left.pop(role) for role in corpora if role in left}
    for kind in (role for role in corpora if role in KINDS):
        own = [name for name in left if P1[name].kind == kind]
        if not own:
            raise ConfigError(f"nothing of preset {preset} is left for {kind}={corpora[kind]}; leave it out")
        found[kind] = sum((left.pop(name) for name in own), Fraction(0))
    if left:
        raise ConfigError(f"preset {preset} asks for more than the corpora given: {_missing(left)}")
    return {role: float(found[role]) for role in corpora}


def _triple(preset: str) -> tuple[int, ...]:
    """Percent of each kind; ConfigError for a preset there is not."""
    name = preset.lower()
    if name in TRIPLES:
        return TRIPLES[name]
    parts = name.split("-")
    if len(parts) == len(KINDS) and all(part.isascii() and part.isdecimal() for part in parts):
        triple = tuple(int(part) for part in parts)
        if sum(triple) == 100:
            return triple
        raise ConfigError(f"preset {preset} makes {sum(triple)} %, not 100; give caption-interleaved-text in percent")
    raise ConfigError(
        f"no mixture is called {preset}; the nearest is {nearest_key(name, TRIPLES)}, all are {', '.join(TRIPLES)}, "
        "and any caption-interleaved-text triple that makes 100"
    )


def _require_known(preset: str, corpora: Mapping[str, str]) -> None:
    """Raise ConfigError for a role that no preset has, or this one gives no share."""
    known = (*KINDS, *P1)
    share = shares(preset)
    for role, folder in corpora.items():
        if role not in known:
            raise ConfigError(
                f"{role}={folder}: {role} is no part of preset {preset}; the nearest is {nearest_key(role, known)}, "
                f"all are {', '.join(known)}"
            )
        if role in P1 and role not in share:
            raise ConfigError(f"preset {preset} holds no {P1[role].kind} data; leave {role}={folder} out")


def _missing(left: Mapping[str, Fraction]) -> str:
    """What lacks a corpus, and the options that give one."""
    parts = []
    for kind in KINDS:
        names = [name for name in left if P1[name].kind == kind]
        if names:
            percent = float(sum(left[name] for name in names))
            options = " or ".join(f"{role}=FOLDER" for role in (kind, *names))
            parts.append(f"{kind} data for {percent:g} % (--corpus {options})")
    return "; ".join(parts)
