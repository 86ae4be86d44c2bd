"""The best size of an encoder against the size of its language model: NaViL's rule, and encoders that were built."""

from typing import Any

import numpy as np

from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.report.plots import style
from megatron_nmm.scaling.report.study import Study

NAME = "encoder"
TITLE = "Encoder and language model"
BUILT = {"NaViL-2B": (1.8e9, 0.6e9), "NaViL-9B": (8e9, 1.2e9)}
"""NaViL Table 6: (language model, encoder)."""


def draw(study: Study) -> Any:
    """The figure; the study adds its own points where it has an encoder grid, and its late-fusion models."""
    figure, (axes,) = style.panels(1, size=(7.4, 4.6))
    scale, slope, _ = published.ENCODER_LINE
    own = sorted({(point.text, point.vision) for point in study.points if point.vision > 0})
    sizes = [n for n, _ in (*published.ENCODERS, *published.LATE_SIZES, *own, *study.encoders)]
    low, high = min(sizes) / 1.5, max(*sizes, 8e9) * 1.5
    n = np.geomspace(low, high, 50)
    line = 1e9 * scale * (n / 1e9) ** slope
    axes.fill_between(n, line / np.sqrt(2), line * np.sqrt(2), color=style.PAPER, alpha=0.15, linewidth=0)
    colour = style.FAMILIES["navil"][0]
    axes.plot(*zip(*published.ENCODERS, strict=True), "o", color=colour, ms=8, label="NaViL Fig. 7: the best encoder")
    axes.plot(
        *zip(*BUILT.values(), strict=True), "D", mfc="none", mec=style.INK, ms=8, mew=1.2, label="NaViL-2B and 9B"
    )
    axes.plot(n, line, color=style.PAPER, label=f"{scale} B (N / 1 B)$^{{{slope}}}$ through them")
    late = [(total - vision, vision) for total, vision in published.LATE_SIZES]
    axes.plot(*zip(*late, strict=True), "s", mfc="none", mec=style.FAMILIES["late"][0], ms=6, label="P1's late fusion")
    if own:
        axes.plot(
            *zip(*own, strict=True), "s", color=style.FAMILIES["late"][0], ms=5, label="late fusion of this study"
        )
    if study.encoders:
        axes.plot(*zip(*study.encoders, strict=True), "*", color=style.INK, ms=13, label="best encoders of this study")
    _finish(axes, low, high)
    return figure


def _finish(axes: Any, low: float, high: float) -> None:
    style.log_amounts(axes.xaxis, low, high)
    bottom, top = axes.get_ylim()
    axes.set_yscale("log")
    bottom = min(float(line.get_ydata().min()) for line in axes.lines) / 1.6
    style.log_amounts(axes.yaxis, bottom, top * 1.3)
    axes.set_xlabel("parameters of the language model")
    axes.set_ylabel("parameters of the encoder")
    axes.legend(loc="lower right")
    style.grid(axes)
