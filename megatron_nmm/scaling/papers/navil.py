"""NaViL's numbers checked: encoder sizes and their line, losses over the LLM's size, and what its choices save."""

from collections.abc import Iterator, Sequence

import numpy as np

from megatron_nmm.scaling.fit.encoder_rule import line
from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.papers.row import Row, Section


def sections() -> Iterator[Section]:
    """All of papers.md 2.4 that follows from other printed values."""
    yield _encoders()
    yield _llm_losses()
    yield _shapes()
    yield _savings()


def _encoders() -> Section:
    found = line(*zip(*published.ENCODERS, strict=True))
    rows = [
        Row(f"best encoder of {llm / 1e9:g}B (B)", encoder, found.encoder(llm), "NaViL Fig. 7", 1e9)
        for llm, encoder in published.ENCODERS
    ]
    scale, slope, large = published.ENCODER_LINE
    rows += [
        Row("encoder of 1B (B)", scale * 1e9, found.scale, "line", 1e9),
        Row("slope", slope, found.slope, "line"),
        Row("encoder of 8B (B)", large * 1e9, found.encoder(8e9), "line; NaViL-9B took 1.2B", 1e9),
    ]
    how = (
        f"log-log line through the three sizes of the chart; 95 % interval of the slope {found.interval.low:.3f} to "
        f"{found.interval.high:.3f}, wide because three points leave one degree of freedom"
    )
    return Section("Encoder size over LLM size", how, rows)


def _llm_losses() -> Section:
    from scipy.stats import linregress

    llms, losses = np.array(published.LLM_LOSSES).T
    fitted = linregress(np.log(llms / 1e9), losses)
    at_1b, slope = published.LLM_LOSS_LINE
    rows = [
        Row("loss at 1B", at_1b, float(fitted.intercept), "NaViL Fig. 6"),
        Row("slope over ln N", slope, float(fitted.slope), "NaViL Fig. 6"),
    ]
    for llm, loss in published.LLM_LOSSES:
        told = float(fitted.intercept + fitted.slope * np.log(llm / 1e9))
        rows.append(Row(f"loss at {llm / 1e9:g}B", loss, told, "NaViL Fig. 6, read off"))
    return Section("Loss over LLM size, encoder of 600M", "line through the three readings over ln N", rows)


def _shapes() -> Section:
    rows = [
        Row(f"depth {depth}, width {width} (M)", told, 12.0 * depth * width**2, "NaViL section 3.2", 1e6)
        for depth, width, told in published.ENCODER_SHAPES
    ]
    return Section("Encoders of about 600M", "12 depth width^2", rows)


def _savings() -> Section:
    start = times_the_data(published.LLM_START, fast=1, slow=2)
    experts = times_the_data(published.MODALITY_EXPERTS, fast=2, slow=1)
    rows = []
    for name, factors, claim in (
        ("data from scratch / from an LLM", start, published.LLM_START_SAVES),
        ("data dense / with modality experts", experts, published.MODALITY_EXPERTS_SAVE),
    ):
        rows += [
            Row(f"{name}, median", claim, float(np.median(factors)), "NaViL's words"),
            Row(f"{name}, most", claim, float(np.max(factors)), "NaViL's words"),
        ]
    how = (
        "samples at which the slower curve reaches a loss over those of the faster one, interpolated over log "
        f"samples. Readings: {start.min():.1f} to {start.max():.1f} x from scratch, less than NaViL's words; "
        f"{experts.min():.1f} to {experts.max():.1f} x without modality experts, growing with data"
    )
    return Section("Data saved", how, rows)


def times_the_data(readings: Sequence[tuple[float, float, float]], fast: int, slow: int) -> np.ndarray:
    """Factor of samples at every loss of the slow curve that the fast one passes; columns by number."""
    table = np.array(readings)
    samples, quick, losses = np.log(table[:, 0]), table[:, fast], table[:, slow]
    inside = (losses <= quick.max()) & (losses >= quick.min())
    needed = np.interp(losses[inside], quick[::-1], samples[::-1])
    return np.asarray(np.exp(samples[inside] - needed))
