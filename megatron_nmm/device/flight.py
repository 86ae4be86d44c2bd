"""What torch's flight recorder says about collectives that have not finished."""

import json


def oldest_s(trace: str | bytes, now: float) -> float:
    """Age in seconds, at Unix time ``now``, of the oldest unfinished collective of a trace in JSON; 0 without one."""
    entries = json.loads(trace).get("entries", [])
    started = [int(entry["time_created_ns"]) for entry in entries if not entry["retired"]]
    return max(0.0, now - min(started) / 1e9) if started else 0.0
