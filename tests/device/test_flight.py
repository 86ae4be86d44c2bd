"""The age of the oldest unfinished collective in a trace of torch's flight recorder."""

import json
import time

from megatron_nmm.config import ParallelConfig
from megatron_nmm.device.flight import oldest_s
from megatron_nmm.verify.workers import Place, WorkerPool

NOW = 1_700_000_100.0


def _entry(age_s: float, *, retired: bool) -> dict[str, object]:
    return {"time_created_ns": int((NOW - age_s) * 1e9), "retired": retired, "state": "started"}


def test_only_unfinished_ones_count_and_the_oldest_decides() -> None:
    trace = {"entries": [_entry(90, retired=True), _entry(40, retired=False), _entry(5, retired=False)]}
    assert round(oldest_s(json.dumps(trace), NOW)) == 40


def test_nothing_waits() -> None:
    assert oldest_s(json.dumps({"entries": [_entry(90, retired=True)]}), NOW) == 0.0
    assert oldest_s(b"{}", NOW) == 0.0


def _recorded(place: Place) -> str:
    """The trace of a process that has summed once."""
    from torch._C import _distributed_c10d

    with place.world(ParallelConfig()) as world:
        world.any(False)
        time.sleep(0.5)  # an entry is retired a little after its collective
        return str(_distributed_c10d._dump_fr_trace_json().decode())


def test_the_recorder_of_this_torch_writes_that_form(pool: WorkerPool) -> None:
    (trace,) = pool.run(1, _recorded)
    entry = json.loads(trace)["entries"][-1]
    assert entry["retired"] is True
    unfinished = {"entries": [{**entry, "retired": False}]}
    assert 0.0 < oldest_s(json.dumps(unfinished), time.time()) < 60.0
