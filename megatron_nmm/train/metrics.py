"""metrics.jsonl: one line per journal interval, validation, telemetry and alarm, told apart by "event" (record.py)."""

from megatron_nmm.files.step_lines import Record, append, read, truncate

__all__ = ["NAME", "Record", "append", "read", "truncate"]

NAME = "metrics.jsonl"
