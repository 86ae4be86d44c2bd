"""Groups the reasons of rejections: what differs between two records of the same fault is left out."""

import re

_OWN = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+")


def reason_kind(reason: str) -> str:
    """``reason`` with names and numbers replaced by ``…``: image 'a.png' has 7 bytes -> image … has … bytes."""
    return _OWN.sub("…", reason)
