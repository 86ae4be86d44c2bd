"""Version numbers as tuples: what is compared is the release, never the suffix of a build."""

import importlib.metadata
import re

Version = tuple[int, ...]


def parse(text: str) -> Version:
    """``2.14.1+cu130`` -> (2, 14, 1); (0,) for what begins with no number."""
    numbers = re.match(r"\D{0,4}?(\d+(?:\.\d+)*)", text)
    return tuple(int(number) for number in numbers.group(1).split(".")) if numbers else (0,)


def text(version: Version) -> str:
    """``12.9``."""
    return ".".join(map(str, version))


def installed(*packages: str) -> Version | None:
    """That of the first of ``packages`` that is installed; None when none is."""
    for package in packages:
        try:
            return parse(importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def meets(version: Version, rule: str) -> bool:
    """Whether ``version`` satisfies ``>=2.10``, ``==0.19.2`` or ``<=0.4.1``; an empty rule allows all."""
    if not rule:
        return True
    wanted = parse(rule[2:])
    length = max(len(version), len(wanted))
    mine, other = (v + (0,) * (length - len(v)) for v in (version, wanted))
    return {">=": mine >= other, "==": mine == other, "<=": mine <= other}[rule[:2]]
