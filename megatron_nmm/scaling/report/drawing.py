"""An SVG as a part of a page: names of its own, a description, and colours that follow the page into the dark."""

import colorsys
import re

from megatron_nmm.scaling.report.html import Piece, tag
from megatron_nmm.scaling.report.plots.style import INK

COLOUR = re.compile(r"#[0-9a-f]{6}\b")
DARK_PAGE, DARK_INK = "#15181d", "#e6e8eb"
"""Of look.py."""
WIDEST, NARROWEST = 1.2, 0.72
"""Pixels of the page for each point of a drawing, at most and at least."""
CONTRAST = 5.0
"""Of a colour with the dark page, at least."""


def embedded(svg: str, name: str, title: str, shows: str) -> Piece:
    """The drawing ``svg`` (from its root element on) with ids that begin with ``name``."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = COLOUR.sub(lambda found: f"var(--c{found.group()[1:]})", svg)
    root, inside = svg.split(">", 1)
    points = re.search(r'width="([0-9.]+)pt"', root)
    width = float(points.group(1)) if points else 0.0
    root = re.sub(r' (width|height)="[^"]*"', "", root)
    described = tag("title", title, id=f"{name}-title") + tag("desc", shows, id=f"{name}-desc")
    # Wide drawings fill the page, narrow ones keep the size of their letters; on a telephone both scroll sideways.
    fits = f' style="max-width: {WIDEST * width:.0f}px; min-width: {NARROWEST * width:.0f}px"'
    labelled = f'{fits} role="img" aria-labelledby="{name}-title {name}-desc"'
    return Piece(f"{root}{labelled}>{described}{inside}")


def palette(svgs: list[str]) -> str:
    """CSS that gives every colour of the drawings its value, and a lighter one on dark pages."""
    found = sorted({colour for svg in svgs for colour in COLOUR.findall(svg)})
    light = " ".join(f"--c{colour[1:]}: {colour};" for colour in found)
    dark = " ".join(f"--c{colour[1:]}: {on_dark(colour)};" for colour in found)
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def on_dark(colour: str) -> str:
    """The colour itself where it shows on a dark page, otherwise as much lighter as it takes; ink is the page's."""
    if colour == INK:
        return DARK_INK
    hue, lightness, saturation = colorsys.rgb_to_hls(*_channels(colour))
    while contrast(colour, DARK_PAGE) < CONTRAST and lightness < 1.0:
        lightness = min(1.0, lightness + 0.02)
        colour = "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hls_to_rgb(hue, lightness, saturation))
    return colour


def contrast(one: str, two: str) -> float:
    """Of two colours, as WCAG 2 defines it: 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(two)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue
