"""What steps, validations and telemetry leave behind, as plain JSON values; losses that do not add up are refused."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from megatron_nmm.data.quarantine import Quarantine
from megatron_nmm.data.raw.record import KINDS
from megatron_nmm.parallel.losses import CONTEXTS, LossSums
from megatron_nmm.train.casts import CastsReading
from megatron_nmm.train.collapse import Alarm
from megatron_nmm.train.evaluate import Validation
from megatron_nmm.train.meter import Reading
from megatron_nmm.train.metrics import Record
from megatron_nmm.train.optim import Update
from megatron_nmm.train.routing import RoutingReading
from megatron_nmm.train.telemetry import PartReading, TelemetryReading

TOLERANCE = 1e-6
"""How far token-weighted parts may be from the total, relative to it."""


def step_record(
    step: int,
    sums: LossSums,
    sources: Sequence[str],
    update: Update,
    reading: Reading,
    intake: Record,
    elapsed_s: float,
) -> Record:
    """One line of metrics.jsonl for the steps since the line before; ``sums`` are over all of them.

    ``intake`` is what the run has read so far, as of :func:`intake`.
    """
    return {
        "event": "step",
        "step": step,
        **loss_record(sums, sources),
        "learning_rate": update.learning_rate,
        "grad_norm": finite(update.grad_norm),
        "finite": update.finite,
        "tokens_per_second": reading.tokens_per_second,
        "image_tokens_per_second": reading.image_tokens_per_second,
        "flops_per_second": reading.flops_per_second,
        "memory_bytes": reading.memory_bytes,
        "data_wait_s": reading.data_wait_s,
        "data_wait_share": reading.data_wait_s / reading.seconds,
        "seconds": reading.seconds,
        "read_tokens": reading.tokens,
        "read_image_tokens": reading.image_tokens,
        "flops": reading.flops,
        **intake,
        "elapsed_s": elapsed_s,
    }


def intake(consumed: int, epochs: Mapping[str, float], quarantine: Quarantine) -> Record:
    """What a run has read since its first step: packs, times each source, samples, and what of them was bad."""
    return {
        "consumed_packs": consumed,
        "epochs": dict(epochs),
        "samples": quarantine.read,
        "replaced_samples": quarantine.replaced,
        "quarantined": len(quarantine.found),
    }


def validation_record(step: int, validation: Validation, elapsed_s: float) -> Record:
    """One line of metrics.jsonl for a validation after ``step``; "loss" is the plain mean over sources."""
    parts = loss_record(validation.sums, validation.sources)
    record = {"event": "validation", "step": step, **parts, "loss": finite(validation.mean)}
    return {**record, "seconds": validation.seconds, "elapsed_s": elapsed_s}


def telemetry_record(step: int, reading: TelemetryReading, elapsed_s: float) -> Record:
    """One line of metrics.jsonl for the telemetry of ``step``; what has no value, such as a side that is frozen, is
    None. Lists have one entry a decoder layer."""
    visual, others = reading.side(visual=True), reading.side(visual=False)
    return {
        "event": "telemetry",
        "step": step,
        "gradient_share": finite(reading.gradient_share(visual=True)),
        "visual": visual and _part_record(visual),
        "others": others and _part_record(others),
        "parts": {name: _part_record(part) for name, part in reading.parts.items()},
        "features": {
            "text": [finite(size) for size in reading.text],
            "visual": [finite(size) for size in reading.visual],
            "ratio": [finite(ratio) for ratio in reading.feature_ratios],
        },
        "text_rows": reading.text_rows,
        "visual_rows": reading.visual_rows,
        "elapsed_s": elapsed_s,
    }


ROUTING = ("load_entropy", "peak", "specialization", "deviation", "mutual_information", "balance", "z")
"""Figures of each sparse layer, by their names in LayerRouting."""


def routing_record(step: int, reading: RoutingReading, elapsed_s: float) -> Record:
    """One line of metrics.jsonl for the routing of ``step``. Lists have one entry a sparse layer: the figures of
    ROUTING, the experts that got no token, and [E] choices by text and by image tokens."""
    layers = reading.layers
    return {
        "event": "routing",
        "step": step,
        "layers": [layer.layer for layer in layers],
        **{name: [finite(getattr(layer, name)) for layer in layers] for name in ROUTING},
        "dead": [list(layer.dead) for layer in layers],
        "text": [list(layer.text) for layer in layers],
        "image": [list(layer.image) for layer in layers],
        "elapsed_s": elapsed_s,
    }


def casts_record(step: int, reading: CastsReading, elapsed_s: float) -> Record:
    """One line of metrics.jsonl for the casts of ``step``: shares by operand, lists with one entry a product."""
    return {
        "event": "casts",
        "step": step,
        "products": list(reading.products),
        "underflow": {which: list(shares) for which, shares in reading.underflow.items()},
        "overflow": {which: list(shares) for which, shares in reading.overflow.items()},
        "elapsed_s": elapsed_s,
    }


def alarm_record(step: int, alarm: Alarm, elapsed_s: float) -> Record:
    """One line of metrics.jsonl for an alarm of ``step``."""
    return {"event": "alarm", "step": step, **asdict(alarm), "elapsed_s": elapsed_s}


def loss_record(sums: LossSums, sources: Sequence[str]) -> Record:
    """Loss and supervised tokens: in total, by context, kind and source. A part without tokens has loss None."""
    tokens = float(sums.tokens.sum())
    mean = _mean(float(sums.loss.sum()), tokens)
    # The axes that are summed over leave the one that is named.
    axes: dict[str, tuple[Sequence[str], tuple[int, int]]] = {
        "contexts": (CONTEXTS, (1, 2)),
        "kinds": (KINDS, (0, 2)),
        "sources": (sources, (0, 1)),
    }
    split = {
        name: _parts(parts, sums.loss.sum(others).tolist(), sums.tokens.sum(others).tolist())
        for name, (parts, others) in axes.items()
    }
    for name, parts in split.items():
        require_sum(name, parts, mean, tokens)
    return {"loss": mean, "tokens": int(tokens), **split}


def require_sum(name: str, parts: Mapping[str, Record], mean: float | None, tokens: float) -> None:
    """Assert that the token-weighted ``parts`` give the ``mean`` over ``tokens`` back; a diverged loss has no sum."""
    if mean is None or any(part["loss"] is None and part["tokens"] for part in parts.values()):
        return
    summed = sum(part["loss"] * part["tokens"] for part in parts.values() if part["tokens"]) / tokens
    counted = sum(part["tokens"] for part in parts.values())
    assert counted == tokens, f"the {name} hold {counted} supervised tokens, the total {tokens:g}"
    assert abs(summed - mean) <= TOLERANCE * max(1.0, abs(mean)), f"the {name} add up to loss {summed}, not {mean}"


def finite(value: float) -> float | None:
    """``value``, or None for nan and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def _part_record(part: PartReading) -> Record:
    norms = {"gradient": part.gradient, "weight": part.weight, "update": part.update}
    shares = {"update_share": part.update_share, "pace": part.pace}
    return {name: finite(value) for name, value in {**norms, **shares}.items()} | {"values": part.values}


def _parts(names: Sequence[str], losses: Sequence[float], tokens: Sequence[float]) -> dict[str, Record]:
    return {
        name: {"loss": _mean(loss, count), "tokens": int(count)}
        for name, loss, count in zip(names, losses, tokens, strict=True)
    }


def _mean(loss: float, tokens: float) -> float | None:
    return finite(loss / tokens) if tokens else None
