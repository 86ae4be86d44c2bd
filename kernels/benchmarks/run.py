"""Times every operator of nmm_kernels: microseconds, GB/s, share of what the memory can do, and times the reference.

    python kernels/benchmarks/run.py                            all cases on the CPU
    python kernels/benchmarks/run.py --device cuda --only H7168 the cases whose name holds H7168, on a GPU

The share is of the bandwidth at which torch copies a tensor too large for the caches; a case that fits in them can
exceed it. Bytes are the least that must move: inputs read once, results written once. Figures are medians. Where
Transformer Engine is installed, its permutation is timed on the GPU beside ours.
"""

import argparse
import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nmm_kernels
import torch
from nmm_kernels.calls import Call, calls
from nmm_kernels.cases import BENCHMARK_CASES, Case, Inputs

LEAST_REPEATS, MOST_REPEATS = 5, 200
COPIED_BYTES = 256 << 20

Work = Callable[[], Any]


def on_cpu_us(work: Work, seconds: float) -> float:
    """Median duration of ``work`` in microseconds, warmed up, over about ``seconds``."""
    work()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < LEAST_REPEATS or (len(times) < MOST_REPEATS and time.perf_counter() - began < seconds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def on_cuda_us(work: Work, seconds: float) -> float:
    """As ``on_cpu_us``, by the GPU's own clock: a launch takes longer than the smaller kernels."""
    work()
    pairs: list[tuple[Any, Any]] = []
    began = time.perf_counter()
    while len(pairs) < LEAST_REPEATS or (len(pairs) < MOST_REPEATS and time.perf_counter() - began < seconds):
        start, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        pairs.append((start, end))
        end.synchronize()
    return statistics.median(float(start.elapsed_time(end)) for start, end in pairs) * 1e3


CLOCKS: dict[str, Callable[[Work, float], float]] = {"cpu": on_cpu_us, "cuda": on_cuda_us}


def copy_bandwidth(device: str) -> float:
    """GB/s that torch reads and writes together when it copies a tensor that no cache can hold."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / CLOCKS[device](lambda: target.copy_(source), 2.0) / 1e3


def transformer_engine(case: Case, inputs: Inputs, call: Call, device: str) -> Work | None:
    """Transformer Engine's way to do the same, where it is installed and has one."""
    if device != "cuda" or case.align != 1 or importlib.util.find_spec("transformer_engine") is None:
        return None
    peer: Any = importlib.import_module("transformer_engine.pytorch")
    permute = partial(peer.moe_permute, inputs.x, inputs.experts, case.tokens * case.top_k, map_type="index")
    if call.operator == "permute":
        return permute
    if (call.operator, call.label) == ("combine", "weighted"):
        rows, row_id_map = permute()
        return partial(peer.moe_unpermute, rows, row_id_map, inputs.probabilities, map_type="index")
    return None


def table(case: Case, device: str, seconds: float, bandwidth: float) -> Iterator[str]:
    """One line for each operator of ``case``."""
    references = {operator.name: operator.reference for operator in nmm_kernels.OPERATORS}
    clock = CLOCKS[device]
    inputs = case.inputs(device)
    for call in calls(case, inputs):
        if call.operator.startswith("route") and call.label != "softmax":
            continue  # one variant stands for all of them
        ours = clock(call.run, seconds)
        reference = clock(partial(references[call.operator], *call.arguments), seconds)
        speed = call.bytes / ours / 1e3
        peer = transformer_engine(case, inputs, call, device)
        te = f"{clock(peer, seconds) / ours:6.2f}" if peer else "-"
        name = f"{call.operator}{f' ({call.label})' if call.label else ''}"
        yield f"{name:28} {ours:10.1f} {speed:8.2f} {speed / bandwidth:8.0%} {reference / ours:10.2f} {te:>6}"


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=sorted(CLOCKS))
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds TEXT")
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long to time each call (0.5)")
    arguments = parser.parse_args()
    chosen = [case for case in BENCHMARK_CASES if arguments.only in case.name]
    if not chosen:
        names = ", ".join(case.name for case in BENCHMARK_CASES)
        sys.exit(f'no case holds "{arguments.only}" in its name; there are {names}')
    serving = nmm_kernels.serving()[arguments.device.upper()]
    bandwidth = copy_bandwidth(arguments.device)
    print(f"{arguments.device}: {serving}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    print(f"copy: {bandwidth:.1f} GB/s read and written")
    for case in chosen:
        print(f"\n{case.name}\n{'operator':28} {'us':>10} {'GB/s':>8} {'of copy':>8} {'reference':>10} {'TE':>6}")
        for line in table(case, arguments.device, arguments.seconds, bandwidth):
            print(line, flush=True)
    print("\nreference, TE: their time over ours")


if __name__ == "__main__":
    main()
