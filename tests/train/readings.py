"""Telemetry readings made by hand, for the tests of alarms, records and plots."""

from dataclasses import replace

from megatron_nmm.train.telemetry import PartReading, TelemetryReading

HEALTHY_PART = PartReading(gradient=0.5, weight=10.0, update=0.01, reach=0.02, values=1000)
HEALTHY = TelemetryReading(
    parts=dict.fromkeys(("vision", "connector", "visual_ffn", "attention", "ffn", "norms"), HEALTHY_PART),
    text=(1.0, 2.0, 3.0),
    visual=(1.5, 2.0, 2.5),
    text_rows=90,
    visual_rows=30,
)
"""Both sides learn."""


def with_part(reading: TelemetryReading, *names: str, **values: float) -> TelemetryReading:
    """``reading`` with other values of the parts ``names``."""
    changed = {name: replace(reading.parts[name], **values) for name in names}  # type: ignore[arg-type]
    return replace(reading, parts={**reading.parts, **changed})


def without(reading: TelemetryReading, *names: str) -> TelemetryReading:
    """``reading`` of a run that freezes the parts ``names``."""
    return replace(reading, parts={name: part for name, part in reading.parts.items() if name not in names})
