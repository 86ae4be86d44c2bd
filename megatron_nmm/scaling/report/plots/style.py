"""How all pictures of a study look, colours that colour-blind readers tell apart, and how they are saved.

Ink is one colour that the report replaces by the page's own, so pictures follow it into the dark.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_nmm.files import durable
from megatron_nmm.scaling.words import amount

INK = "#1f2328"
FAMILIES = {
    "early": ("#4477aa", "o"),
    "late": ("#ee6677", "s"),
    "sparse": ("#228833", "^"),
    "modality_ffn": ("#aa3377", "D"),
    "navil": ("#b8860b", "v"),
}
"""Colour (Paul Tol's bright scheme, its yellow darker) and marker."""
PAPER = "#8a8f98"
"""Of what the papers publish."""
PANEL = (4.6, 3.7)
"""Inches of one panel."""
DPI = 150

SETTINGS = {
    "font.size": 10.0,
    "font.family": "DejaVu Sans",
    "axes.facecolor": "none",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "megatron_nmm",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
}


def panels(columns: int, rows: int = 1, size: tuple[float, float] = PANEL, **options: Any) -> tuple[Any, list[Any]]:
    """A figure and its axes, row by row; call inside ``matplotlib.rc_context(SETTINGS)``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def grid(axes: Any) -> None:
    """Faint lines in the colour of the ink, so that they show on dark pages, too."""
    axes.grid(color=INK, alpha=0.12, linewidth=0.7)


def log_amounts(axis: Any, low: float, high: float) -> None:
    """A logarithmic axis from ``low`` to ``high`` with a few ticks written as 300 M, 1 B."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    axis.set_major_locator(FixedLocator(ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two others, evenly apart on a logarithmic scale, three to ``most`` where there are any."""
    for digits, step in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 4)):
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        found = [d * 10.0**e for e in decades if e % step == 0 for d in digits if low <= d * 10.0**e <= high]
        if len(found) <= most:
            return found
    return found


def shades(count: int) -> list[Any]:
    """Colours of an order, dark to light; the lightest of viridis are left out, for they fade on white."""
    import matplotlib

    return [matplotlib.colormaps["viridis"](place) for place in np.linspace(0.0, 0.78, max(count, 1))]


def apart(heights: Sequence[float], least: float, top: float = np.inf) -> list[float]:
    """Heights of labels, given from the lowest to the highest, moved so that neighbours are ``least`` apart.

    They move up, and down again where the highest would be above ``top``; their order stays.
    """
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + least) if placed else height)
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], top)
        top = placed[index] - least
    return placed


def save(figure: Any, folder: Path, name: str) -> str:
    """Write ``name.png`` and ``name.svg`` into ``folder``, each whole or not at all; the SVG is returned as text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    raster, drawing = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_figure(raster, format="png", dpi=DPI, facecolor="white")
    FigureCanvasSVG(figure).print_figure(drawing, format="svg", facecolor="none", metadata={"Date": None})
    durable.replace(folder / f"{name}.png", raster.getvalue())
    # On its own the drawing gets a page to stand on; in the report it is transparent.
    text = drawing.getvalue().decode()
    head, root, rest = text.partition("<svg ")
    durable.replace(folder / f"{name}.svg", f'{head}{root}style="background:white" {rest}'.encode())
    return root + rest
