"""Alarms: one side of the model, images or text, no longer learns although it should, or sparse experts lie idle.

A table of limits with reasons. Only parts that train are looked at; what ``optim.rates`` freezes has no reading and
raises no alarm.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from megatron_nmm.models.parts import VISUAL_PARTS
from megatron_nmm.train.telemetry import TelemetryReading

UNUSED_BY_SQUARES = "special_embeddings"
"""Tokens that lay out images stand in native images alone: square ones leave this part still without any fault."""

NAMED = 8
"""Dead experts named in an alarm; the record of the step has all of them."""

Finding = tuple[str, float | None, str]
"""What it is about, its value (None where it is not finite), and the fact in words."""


@dataclass(frozen=True)
class Alarm:
    """One rule broken in one step."""

    rule: str
    subject: str
    """The side or the part it is about."""
    value: float | None
    limit: float | None
    text: str
    """Fact, value, limit and where to look."""


@dataclass(frozen=True)
class Rule:
    """What must not happen, from which value on."""

    name: str
    limit: float | None
    """None where no number says it."""
    remedy: str
    """Where to look first."""
    find: Callable[[TelemetryReading, float], Iterator[Finding]]


def alarms(reading: TelemetryReading) -> list[Alarm]:
    """Every rule ``reading`` breaks, in the order of RULES."""
    return [
        Alarm(rule.name, subject, value, rule.limit, f"{fact}; {rule.remedy}")
        for rule in RULES
        for subject, value, fact in rule.find(reading, rule.limit or 0.0)
    ]


def _not_finite(reading: TelemetryReading, _: float) -> Iterator[Finding]:
    found = [
        f"{what} of {name}"
        for name, part in reading.parts.items()
        for what, norm in (("gradient", part.gradient), ("weights", part.weight), ("update", part.update))
        if not math.isfinite(norm)
    ]
    for side, sizes, rows in (
        ("text", reading.text, reading.text_rows),
        ("visual", reading.visual, reading.visual_rows),
    ):
        # The first layer is named: what follows it only inherits.
        bad = [layer for layer, size in enumerate(sizes, 1) if rows and not math.isfinite(size)]
        found += [f"{side} features from layer {bad[0]} on"] if bad else []
    if found:
        yield "model", None, f"not finite: {', '.join(found)}"


def _weak_gradient(reading: TelemetryReading, limit: float) -> Iterator[Finding]:
    for visual, rows in ((True, reading.visual_rows), (False, reading.text_rows)):
        share = reading.gradient_share(visual=visual)
        if rows and share < limit:
            name = "visual parts" if visual else "parts that serve text"
            yield name, share, f"the gradient of the {name} is {share:.1e} of the whole, below {limit:g}"


def _no_update(reading: TelemetryReading, limit: float) -> Iterator[Finding]:
    for name, part in reading.parts.items():
        used = reading.visual_rows if name in VISUAL_PARTS else reading.text_rows
        if used and name != UNUSED_BY_SQUARES and part.pace < limit:
            yield name, part.pace, f"{name} moves by {part.pace:.1e} of its learning rate, below {limit:g}"


def _feature_ratio(reading: TelemetryReading, limit: float) -> Iterator[Finding]:
    # How far apart the sides are, on a scale where both directions count alike.
    apart = {
        layer: abs(math.log(ratio)) if ratio else math.inf
        for layer, ratio in enumerate(reading.feature_ratios, 1)
        if math.isfinite(ratio)
    }
    outside = [layer for layer, distance in apart.items() if distance > math.log(limit)]
    if outside:
        worst = max(outside, key=apart.__getitem__)
        ratio = reading.feature_ratios[worst - 1]
        fact = (
            f"after layer {worst} visual features are {ratio:.2g} times as large as those of text (outside 1/{limit:g} "
            f"to {limit:g} after {len(outside)} of {len(apart)} layers)"
        )
        yield "features", ratio, fact


def _load_entropy(reading: TelemetryReading, limit: float) -> Iterator[Finding]:
    layers = reading.routing.layers if reading.routing else ()
    low = [layer for layer in layers if layer.load_entropy < limit]
    if low:
        worst = min(low, key=lambda layer: layer.load_entropy)
        fact = (
            f"the load of the experts in layer {worst.layer} has entropy {worst.load_entropy:.2g}, below {limit:g} "
            f"(1 is even; so in {len(low)} of {len(layers)} sparse layers), the most loaded one takes {worst.peak:.2g} "
            "x the mean"
        )
        yield "load of experts", worst.load_entropy, fact


def _dead_experts(reading: TelemetryReading, limit: float) -> Iterator[Finding]:
    layers = reading.routing.layers if reading.routing else ()
    dead = {layer.layer: [expert for expert, steps in enumerate(layer.idle) if steps >= limit] for layer in layers}
    if count := sum(map(len, dead.values())):
        worst = max(dead, key=lambda layer: len(dead[layer]))
        longest = max(steps for layer in layers for steps in layer.idle)
        named = ", ".join(map(str, dead[worst][:NAMED])) + (", ..." if len(dead[worst]) > NAMED else "")
        fact = (
            f"{count} experts got no token in {limit:g} or more measured steps in a row, at most {longest} (most of "
            f"them in layer {worst}: {named})"
        )
        yield "idle experts", float(longest), fact


RULES = (
    Rule(
        "not_finite",
        None,
        "go back to the last checkpoint with a lower learning rate, or look at the data of this step",
        _not_finite,
    ),
    # Both sides of healthy runs lie above 1e-2, from the first step of toys to the last of examples/digits.py: a
    # hundredth of that is no more than what is left of a side that is cut off.
    Rule(
        "weak_gradient",
        1e-4,
        "look at what stands between that side and the loss: placeholders, connector, zeroed or huge weights",
        _weak_gradient,
    ),
    # Adam moves weights with steady or noisy gradients by 0.1 to 1 of their learning rate, an embedding table that is
    # mostly unused by 0.02. Far below that, gradients stay away, or are so small beside optim.epsilon that nothing is
    # learnt from them.
    Rule(
        "no_update",
        1e-3,
        "freeze the part if that is meant (optim.rates), else look for what cuts it off from the loss",
        _no_update,
    ),
    # A layer reads normalised rows and adds about as much to either side: rows thirty times as large hardly change any
    # more, rows thirty times smaller are overwritten by a single layer.
    Rule(
        "feature_ratio",
        30.0,
        "look at the scale of the connector's output, and whether the rates of the two sides fit together",
        _feature_ratio,
    ),
    # A load that is even over E^0.7 experts has 0.7, over 4 of 8 or 18 of 64: the others hardly train. A toy of 8
    # experts stays above 0.85 in every layer with P1's balance loss, and falls below 0.7 within 45 steps without one.
    Rule(
        "load_entropy",
        0.7,
        "raise model.sparse.balance_loss or set model.sparse.bias_rate, and look at the router's learning rate",
        _load_entropy,
    ),
    # One step without a token is chance where steps are small. An expert that is never chosen has no gradient and does
    # not come back by itself.
    Rule(
        "dead_experts",
        3,
        "raise model.sparse.balance_loss, set model.sparse.bias_rate, or take fewer experts",
        _dead_experts,
    ),
)
"""In the order of telling: what is not finite explains the rest."""

LIMITS = {rule.name: rule.limit for rule in RULES if rule.limit is not None}
"""Rule -> limit."""
