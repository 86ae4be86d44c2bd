"""Training speed of one decoder shape here and in Hugging Face transformers, in the same run on the same machine.

    python tools/bench_train.py                 # fp32 and bf16
    python tools/bench_train.py --dtype bf16 --rounds 9

Shape: 8 layers, width 512, FFN 1536, 8 heads, vocabulary 8,192, 2 x 512 tokens a step; a step is forward, backward,
clipping at 1.0 and AdamW. transformers runs its Qwen3 at its best plain settings: weights in the stated dtype, SDPA,
fused AdamW. Ours keeps fp32 master weights and fp32 gradients in bf16 too. Each has a process of its own, as its users
run it; they take turns, a step each, so that drift of the machine hits both, and medians are printed. Needs the extra
"bench" (pip install -e .[bench]).
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.connection import Connection

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from megatron_nmm.config import DataConfig, ModelConfig, OptimConfig, PrecisionConfig, RunConfig
from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.collate import collate
from megatron_nmm.data.load import Loaded
from megatron_nmm.data.rule import LAYOUT_TOKENS
from megatron_nmm.device.select import select
from megatron_nmm.errors import ConfigError
from megatron_nmm.models.accounting import Work, attended_pairs, step_flops
from megatron_nmm.parallel.world import World

ROWS, LENGTH = 2, 512
MODEL = ModelConfig(layers=8, width=512, ffn=1536, heads=8, vocabulary=8192)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEAK_SIDE = 2048
"""Side of the square product whose rate stands for the machine's peak."""

CONTENDERS = ("ours", "transformers", "peak")
WARM_UP = 2

SPECIAL = {name: MODEL.vocabulary + number for number, name in enumerate(("pad", "image", *LAYOUT_TOKENS))}
"""Ids that none of the random tokens has."""

Step = Callable[[], None]


def tokens() -> torch.Tensor:
    """[B, S + 1] random token ids."""
    return torch.randint(0, MODEL.vocabulary, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))


def text_batch() -> Batch:
    """``tokens`` as packed rows of one document each."""
    ids = tokens()
    rows = [[Loaded("text", 0, 0, row.numpy(), (), ())] for row in ids[:, :-1]]
    batch = collate(rows, LENGTH, SPECIAL, MODEL.vision.patch_values)
    return replace(batch, labels=ids[:, 1:], loss_weight=torch.ones(ROWS, LENGTH))


def our_step(dtype: str, world: World) -> Step:
    """One training step of this package."""
    from megatron_nmm.models.build import build
    from megatron_nmm.parallel.schedule import forward_backward
    from megatron_nmm.train.optim import Optimizer

    run = RunConfig(
        model=MODEL,
        precision=PrecisionConfig("bf16" if dtype == "bf16" else "fp32"),
        data=DataConfig(sequence_length=LENGTH, microbatch=ROWS, global_batch=ROWS),
        optim=OptimConfig(learning_rate=1e-4),
    )
    model = build(run, world)
    optimizer = Optimizer(run, model, world)
    batch = text_batch()

    def step() -> None:
        forward_backward(model, [batch], world)
        optimizer.step(100)

    return step


def their_step(dtype: str) -> Step:
    """One training step of transformers' Qwen3 of the same shape."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=MODEL.vocabulary,
        hidden_size=MODEL.width,
        intermediate_size=MODEL.ffn_width,
        num_hidden_layers=MODEL.layers,
        num_attention_heads=MODEL.heads,
        num_key_value_heads=MODEL.kv_heads,
        head_dim=MODEL.head_width,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = Qwen3ForCausalLM(config).to(DTYPES[dtype])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = tokens()[:, :-1]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def peak_step(dtype: str) -> Step:
    """One large square matrix product, the measure of what the machine can do."""
    a, b = (torch.randn(PEAK_SIDE, PEAK_SIDE).to(DTYPES[dtype]) for _ in range(2))

    def step() -> None:
        torch.mm(a, b)

    return step


def serve(name: str, dtype: str, pipe: Connection) -> None:
    """One contender's process: build its step, then time a call whenever asked."""
    step: Step
    if name == "ours":
        step = our_step(dtype, World.start(RunConfig().parallel, select("cpu"), seed=1))
    else:
        step = their_step(dtype) if name == "transformers" else peak_step(dtype)
    for _ in range(WARM_UP):
        step()
    pipe.send(torch.get_num_threads())
    while pipe.recv():
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)


def measure(dtype: str, rounds: int, console: Console) -> dict[str, float]:
    """Median seconds of each contender, taking turns."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in CONTENDERS:
        pipes[name], there = context.Pipe()
        context.Process(target=serve, args=(name, dtype, there), daemon=True).start()
        assert pipes[name].recv() == torch.get_num_threads(), "the contenders must have the same threads"
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in track(range(rounds), description=dtype, console=console, transient=True):
        for name, pipe in pipes.items():
            pipe.send(True)
            times[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=sorted(DTYPES), action="append", help="default: both")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="turns of each contender (default 7)")
    options = parser.parse_args()
    if find_spec("transformers") is None:
        return refuse(ConfigError("transformers is not installed; install it with: pip install -e .[bench]"))
    console = Console(width=120)
    work = Work(ROWS * LENGTH, ROWS * attended_pairs([LENGTH], [], "causal"), ROWS * LENGTH)
    flops = step_flops(MODEL, work).total
    table = Table(
        "dtype", "transformers tok/s", "ours tok/s", "ours / transformers", "peak GFLOP/s", "ours, share of peak"
    )
    for dtype in options.dtype or ["fp32", "bf16"]:
        median = measure(dtype, options.rounds, console)
        rates = {name: ROWS * LENGTH / median[name] for name in ("transformers", "ours")}
        peak = 2 * PEAK_SIDE**3 / median["peak"]
        table.add_row(
            dtype,
            f"{rates['transformers']:,.0f}",
            f"{rates['ours']:,.0f}",
            f"{rates['ours'] / rates['transformers']:.2f}",
            f"{peak / 1e9:,.0f}",
            f"{flops / median['ours'] / peak:.0%}",
        )
    console.print(f"{torch.get_num_threads()} threads, dense decoder, {ROWS} x {LENGTH} tokens a step")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
