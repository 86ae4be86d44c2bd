"""metrics.jsonl: one line per journal interval and validation; "event" is "step" or "validation"."""

from megatron_nmm.files.step_lines import Record, append, read, truncate

__all__ = ["NAME", "Record", "append", "read", "truncate"]

NAME = "metrics.jsonl"
