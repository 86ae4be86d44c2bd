"""What a plan says: one table per question, the sentences that go with it, and all of it as data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from megatron_nmm.scaling.money import Machine
from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.papers.laws import ANCHOR, BUDGETS, RATIOS, STUDY, frontier
from megatron_nmm.scaling.plan.budget import Difference, Option, Trained, difference, extrapolations
from megatron_nmm.scaling.plan.nearest import Preset, nearest
from megatron_nmm.scaling.plan.optimum import Cost, of_flops
from megatron_nmm.scaling.plan.repeats import Readings
from megatron_nmm.scaling.words import amount, family, loss, power, times, with_interval

NEAR = 4.0
"""A preset more than this times as large or small as the plan is not offered."""
NEAR_P1 = 100.0
"""P1's answer is told up to this factor beyond its budgets, and NaViL's up to it beyond its language models."""
QUANTITIES = {"flops": "FLOPs", "parameters": "N", "tokens": "D"}
APPROXIMATIONS = (
    "P1 prints no A and B of its dense models: here they put the best runs on its frontier with "
    f"{published.ASSUMED_TOKENS_PER_PARAMETER:g} tokens per parameter at {power(ANCHOR)} FLOPs, an assumption.",
    "Intervals of N and D: laws that scatter as P1's Table 11 says of early fusion (assumed of late fusion, too), with "
    f"{RATIOS[0]:g} to {RATIOS[1]:g} tokens per parameter; of losses: the mean error of P1's fits, "
    f"{published.TABLE_10['held in'][2]:.2f} % (Table 10). Of its sparse models P1 publishes no scatter.",
    "Losses of the best runs are P1's frontiers; where a size or a preset is compared, they are the law's, which bends "
    "where a frontier is straight: from 3e19 to 1e22 FLOPs they part by 0.06 at most, of sparse models by 0.11.",
)


def best_runs(options: Sequence[Option], title: str, choose: bool) -> Table:
    """A row a family: the best run, and beside it what P1 prints; the least loss is bold if it may ``choose``."""
    out = Table("family", "N", "all", "encoder", "D", "D / N", "FLOPs", "loss", "P1's N, D", "P1's loss", title=title)
    best = min(options, key=lambda option: option.ranked.value)
    for option in options:
        out.add_row(
            family(option.family),
            with_interval(option.parameters, amount),
            amount(option.total),
            amount(option.vision) if option.vision else "",
            with_interval(option.tokens, amount),
            f"{option.tokens.value / option.parameters.value:.3g}",
            with_interval(option.flops, power),
            with_interval(option.ranked, loss),
            *papers_answer(option),
            style="bold" if choose and option is best else "",
        )
    return out


def papers_answer(option: Option) -> tuple[str, str]:
    """P1's N and D, which it determines for its sparse models alone, and the loss of its frontier.

    Far from the budgets that P1 trained both are left out.
    """
    flops, line = option.flops.value, frontier(option.family)
    if not BUDGETS[0] / NEAR_P1 <= flops <= BUDGETS[1] * NEAR_P1:
        return "out of its range", "out of its range"
    words = "not printed"
    if option.family == "sparse":
        found = of_flops([published.MOE], Cost(), flops)
        words = f"{amount(float(found.parameters[0]))}, {amount(float(found.tokens[0]))}"
    return words, loss(line.loss(flops)) if line else "not printed"


def presets(options: Sequence[Option]) -> Table:
    """The papers' nearest model of each family, given the same budget."""
    out = Table(
        "nearest preset", "N", "D for these FLOPs", "loss", "above the best", title="models of config/presets.py"
    )
    for option in options:
        preset, far = _nearest(option)
        words = "" if not far else f" ({times(preset.distance)} times as {far})"
        out.add_row(
            preset.name + words,
            amount(preset.parameters),
            amount(preset.tokens),
            loss(preset.loss),
            loss(preset.loss - option.loss.value),
        )
    return out


def _nearest(option: Option) -> tuple[Preset, str]:
    """The preset, and "large" or "small" where it is far away."""
    preset = nearest(option.fitted, option.parameters.value, option.flops.value)
    if preset.distance <= NEAR:
        return preset, ""
    return preset, "large" if preset.parameters > option.parameters.value else "small"


def money(flops: Mapping[str, float], machine: Machine) -> Table:
    """Time and cost of each family's run; family -> FLOPs."""
    out = Table(
        "family",
        "GPU hours",
        "days",
        "cost",
        title=f"on {machine.name}, {machine.mfu:.0%} of {machine.peak:.3g} FLOP/s",
    )
    for name, spent in flops.items():
        hours, days, cost = (ask(spent) for ask in (machine.hours, machine.days, machine.cost))
        assert hours is not None, "FLOPs always take hours"
        out.add_row(
            family(name),
            f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}",
            "with --gpus" if days is None else f"{days:,.3g} on {machine.gpus:,} GPUs",
            "with --price" if cost is None else f"{cost:,.0f}",
        )
    return out


def sources(read: Readings, whose: str) -> Table:
    """What a run reads of each source."""
    title = f"{amount(read.tokens)} tokens for {whose}"
    out = Table("source", "share", "tokens", "there are", "epochs", "at most", "runs out", title=title)
    for row in read.rows:
        out.add_row(
            row.source.name,
            f"{100 * row.share:.4g} %",
            amount(row.asked),
            amount(row.source.tokens),
            f"{row.epochs:.2f}",
            f"{row.source.epochs:g}",
            f"[bold]after {100 * row.lasts:.0f} % of the run[/]" if row.missing else "no",
        )
    return out


def served(rows: Sequence[Trained], title: str) -> Table:
    """A given size trained to more and more tokens."""
    out = Table("D / best D", "D", "FLOPs", "loss", "best loss for these FLOPs", "paid", title=title)
    for row in rows:
        out.add_row(
            f"{row.factor:.3g}",
            amount(row.tokens),
            power(row.flops),
            with_interval(row.loss, loss),
            loss(row.best_loss),
            loss(max(row.paid, 0.0)),
        )
    return out


def choice(options: Sequence[Option]) -> str:
    """Which family, by how much, and whether that is more than is known."""
    found = difference(options)
    if found is None:
        return f"The fit has one family, {family(options[0].family)}: nothing to choose."
    words = (
        f"{family(found.best.family)} has the lowest loss, {loss(found.gain.value)} below {family(found.second.family)}"
    )
    return f"{words}; {_certainty(found)}"


def _certainty(found: Difference) -> str:
    gain = found.gain
    if gain.low is None or gain.high is None:
        return "how certain that is, the fit does not say: it has no bootstrap laws."
    interval = f"the interval of the difference, {loss(gain.low)} to {loss(gain.high)},"
    return f"{interval} leaves zero out." if found.certain else f"{interval} holds zero: do not choose by this."


def experts(options: Sequence[Option]) -> str:
    """Whether sparse experts pay, in a sentence; empty where there is nothing to compare."""
    sparse = [option for option in options if option.family == "sparse"]
    dense = [option for option in options if option.family != "sparse"]
    found = difference([*sparse, min(dense, key=lambda one: one.ranked.value)]) if sparse and dense else None
    if found is None:
        return ""
    pays = found.best.family == "sparse"
    apart = f"{loss(found.gain.value)} {'below' if pays else 'above'} the best dense"
    if found.certain is False:
        return f"Whether sparse experts pay is open: {apart}, which is less than the interval."
    return f"Sparse experts {'pay' if pays else 'do not pay'}: {apart}."


def with_encoder(options: Sequence[Option]) -> Option:
    """The one whose decoder an encoder is asked for: late fusion's, or the first."""
    return next((option for option in options if option.vision), options[0])


def encoder(option: Option) -> str:
    """NaViL's rule for the plan's decoder."""
    decoder = option.parameters.value - option.vision
    smallest, largest = published.ENCODERS[0][0], published.ENCODERS[-1][0]
    if not smallest / NEAR_P1 <= decoder <= largest * NEAR_P1:
        return (
            f"NaViL's rule for encoders says nothing of a language model of {amount(decoder)}: it comes from "
            f"{amount(smallest)} to {amount(largest)}."
        )
    return (
        f"An encoder for a language model of {amount(decoder)} ({family(option.family)}), by NaViL's rule "
        f"({published.ENCODER_LINE[0]} B x (size / 1 B)^{published.ENCODER_LINE[1]}, three points of a chart, known "
        f"to a factor of 2): {with_interval(option.encoder, amount)}."
    )


def warnings(options: Sequence[Option]) -> Iterator[str]:
    """Extrapolations, and what the fits warn of themselves."""
    yield from far_beyond(options)
    for option in options:
        yield from (f"{family(option.family)}: {text}" for text in option.fitted.warnings)


def far_beyond(options: Sequence[Option]) -> Iterator[str]:
    """By how many times each plan leaves the range of its fit's runs."""
    for option in options:
        if found := extrapolations(option):
            far = " and ".join(f"{QUANTITIES[name]} {times(factor)} times" for name, factor in found)
            yield f"{family(option.family)}: {far} beyond the runs of the fit; a law is known there by hope alone"


def approximations(options: Sequence[Option]) -> tuple[str, ...]:
    """How the paper's missing figures were replaced; empty for a fit of one's own."""
    return APPROXIMATIONS if any(option.fitted.study == STUDY for option in options) else ()


def as_data(option: Option, machine: Machine, spent: float) -> dict[str, Any]:
    """One family's answer; ``spent`` FLOPs are what its run costs."""
    line = frontier(option.family)
    return {
        "family": option.family,
        "flops": asdict(option.flops),
        "parameters": asdict(option.parameters),
        "all_parameters": option.total,
        "vision_parameters": option.vision,
        "tokens": asdict(option.tokens),
        "loss": asdict(option.ranked),
        "loss_of_the_law": asdict(option.loss),
        "papers_frontier": line.loss(option.flops.value) if line else None,
        "encoder_by_navils_rule": asdict(option.encoder),
        "nearest_preset": asdict(nearest(option.fitted, option.parameters.value, option.flops.value)),
        "gpu_hours": machine.hours(spent),
        "days": machine.days(spent),
        "cost": machine.cost(spent),
        "beyond_the_fit": dict(extrapolations(option)),
    }


def trained_data(row: Trained) -> dict[str, Any]:
    """A size and a number of tokens."""
    return {**asdict(row), "paid": max(row.paid, 0.0)}


def sources_data(read: Readings) -> dict[str, Any]:
    """What is read of each source."""
    rows = [
        {
            "name": row.source.name,
            "share": row.share,
            "tokens": row.asked,
            "epochs": row.epochs,
            "most_epochs": row.source.epochs,
            "lasts": row.lasts,
        }
        for row in read.rows
    ]
    return {"tokens": read.tokens, "longest": read.longest, "rows": rows, "remedy": read.remedy}
