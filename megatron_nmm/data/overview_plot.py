"""The picture of a corpus: histograms of sample lengths by kind, of image sizes and of patch grids."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_nmm.data.overview import Overview, quantile
from megatron_nmm.errors import DataError

COLOURS = {"text": "#4477aa", "caption": "#228833", "interleaved": "#ee6677"}
"""Paul Tol's bright scheme, told apart by colour-blind readers as well."""
BINS = 40
SHOWN_GRIDS = 12
SHOWN_SIZES = 2_000


def overview_plot(overview: Overview, path: Path) -> None:
    """Draw ``overview`` into a PNG at ``path``; raises DataError when the disk refuses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = overview.info["counts"]
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    lengths, sizes, grids = figure.subplots(1, 3)
    figure.suptitle(
        f"{overview.info['source']}: {counts.get('samples', 0):,} samples, {counts.get('tokens', 0):,} tokens, "
        f"{counts.get('images', 0):,} images, {counts.get('rejected', 0):,} records rejected"
    )
    _draw_lengths(lengths, overview)
    _draw_sizes(sizes, overview.sizes)
    _draw_grids(grids, overview.grids)
    try:
        FigureCanvasAgg(figure).print_figure(str(path), dpi=110)
    except OSError as error:
        raise DataError(f"writing {path} failed: {error.strerror or error}; make room or fix permissions") from error


def _draw_lengths(axes: Any, overview: Overview) -> None:
    """Samples by their tokens, kinds on top of each other."""
    lengths = overview.lengths
    axes.set(title="length of a sample", xlabel="tokens", ylabel="samples")
    if not lengths:
        _empty(axes, "no samples")
        return
    edges, logarithmic = _edges(min(lengths), max(lengths))
    kinds = {name: kind for name, kind in overview.kinds.items() if kind.samples}
    bottom = np.zeros(len(edges) - 1)
    for name, kind in kinds.items():
        values = np.array(list(kind.lengths))
        heights, _ = np.histogram(values, edges, weights=np.array(list(kind.lengths.values())))
        label = f"{name}: {kind.samples:,}"
        axes.bar(edges[:-1], heights, np.diff(edges), bottom, align="edge", color=COLOURS[name], label=label)
        bottom += heights
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    for share, style in ((0.5, "--"), (0.99, ":")):
        value = quantile(lengths, share)
        axes.axvline(value, color="#222222", linestyle=style, linewidth=1, label=f"p{share * 100:g}: {value:,} tokens")
    axes.set_ylim(top=bottom.max() * 1.5)  # room for the legend
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper right", fontsize=8)


def _draw_sizes(axes: Any, sizes: Counter[tuple[int, int]]) -> None:
    """Images by height and width; the area of a spot is how many."""
    axes.set(title="size of an image", xlabel="width (pixels)", ylabel="height (pixels)")
    if not sizes:
        _empty(axes, "no images")
        return
    common = sizes.most_common(SHOWN_SIZES)
    heights, widths = zip(*(size for size, _ in common), strict=True)
    numbers = np.array([number for _, number in common])
    axes.scatter(widths, heights, 12 + 150 * numbers / numbers.max(), color="#aa3377", alpha=0.5, linewidths=0)
    top = 1.1 * max(*heights, *widths)
    axes.plot([0, top], [0, top], color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")


def _draw_grids(axes: Any, grids: Counter[tuple[int, int]]) -> None:
    """The most frequent patch grids."""
    axes.set(title="patch grid of a view (rows x columns)", xlabel="views")
    if not grids:
        _empty(axes, "no images")
        return
    common = grids.most_common(SHOWN_GRIDS)
    rest = sum(grids.values()) - sum(number for _, number in common)
    names = [f"{rows} x {columns}" for (rows, columns), _ in common]
    numbers = [number for _, number in common]
    if rest:
        names, numbers = [*names, f"{len(grids) - len(common):,} others"], [*numbers, rest]
    bars = axes.barh(names, numbers, height=0.7, color="#66ccee")
    axes.bar_label(bars, [f"{number:,}" for number in numbers], padding=3, fontsize=8)
    axes.set_ylim(max(len(names), SHOWN_GRIDS) - 0.5, -0.5)
    axes.margins(x=0.2)


def _edges(least: int, most: int) -> tuple[npt.NDArray[np.floating[Any]], bool]:
    """([bins + 1] edges at half numbers, whether they grow by a factor)."""
    if most < 20 * least or most <= 2 * BINS:
        step = max(1, -(-(most - least + 1) // BINS))
        return np.arange(least, most + step + 1, step) - 0.5, False
    return np.unique(np.floor(np.geomspace(least, most + 1, BINS + 1))) - 0.5, True


def _empty(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="#777777")
    axes.set(xticks=[], yticks=[])
