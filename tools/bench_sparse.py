"""Speed of a layer of sparse experts against megatron-core's own, in the same run on the same machine.

    python tools/bench_sparse.py                       # top-1 and top-2, bf16, 4,096 tokens, width 512, 8 experts
    python tools/bench_sparse.py --dtype fp32 --rounds 21

One process, forward and backward of one layer with router, balance loss and SwiGLU experts: ours with the operators of
nmm_kernels, and megatron-core's MoELayer with SequentialMLP and its alltoall dispatcher, its products as torch computes
them (device/products.py would speed it up as well). They take turns, a step each, with the same weights and tokens;
medians are printed. The floor is the matrix products of the experts alone, at the sizes that an even load gives.
"""

import argparse
import statistics
import sys
import time
import unittest.mock
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from megatron_nmm.config import ModelConfig, PrecisionConfig, RunConfig, SparseConfig
from megatron_nmm.config.arguments import positive
from megatron_nmm.device import products
from megatron_nmm.device.protocol import UNWRITTEN
from megatron_nmm.device.select import select
from megatron_nmm.parallel.world import World

WRITTEN = frozenset({"experts.linear_fc1.weight", "experts.linear_fc2.weight"})
"""Weights of our layer whose first gradient of a step is written, not added."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[], None]


@dataclass(frozen=True)
class Shape:
    """What is measured."""

    tokens: int = 4096
    width: int = 512
    ffn: int = 1536
    experts: int = 8
    top_k: int = 1

    def run(self, dtype: str) -> RunConfig:
        """A run whose layers have this shape."""
        sparse = SparseConfig(experts=self.experts, top_k=self.top_k)
        model = ModelConfig(layers=1, width=self.width, heads=8, ffn=self.ffn, vocabulary=64, sparse=sparse)
        return RunConfig(model=model, precision=PrecisionConfig("bf16" if dtype == "bf16" else "fp32"))


def step_of(layer: Any, x: torch.Tensor, grad: torch.Tensor, written: frozenset[str] = frozenset()) -> Step:
    """Forward and backward of ``layer`` with fp32 gradients as a step of training starts: the weights in ``written``
    overwrite theirs (parallel/unwritten.py), all others add to it. Filling those with zeros first is not counted."""
    for weight in layer.parameters():
        weight.main_grad = torch.zeros_like(weight, dtype=torch.float32)
        weight.grad_added_to_main_grad = False
    first = [weight.main_grad for name, weight in layer.named_parameters() if name in written]

    def step() -> None:
        x.grad = None
        for gradient in first:
            setattr(gradient, UNWRITTEN, True)
        layer(x)[0].backward(grad)
        for weight in layer.parameters():
            if weight.grad is not None and not weight.grad_added_to_main_grad:
                weight.main_grad.add_(weight.grad)
            weight.grad = None

    return step


def our_layer(shape: Shape, run: RunConfig, config: Any, world: World) -> Any:
    """The layer that a model here has."""
    from megatron_nmm.models.leaves import leaves
    from megatron_nmm.models.sparse.plan import SparsePlan
    from megatron_nmm.models.spec import sparse_mlp

    build = sparse_mlp(run, leaves(run.precision, world.device))
    layer = build(config, pg_collection=world.groups, is_mtp_layer=False, name=None)
    tokens = torch.zeros(shape.tokens, dtype=torch.int64)
    members = torch.ones(1, shape.tokens)
    layer.router.plan = SimpleNamespace(sparse=SparsePlan(tokens, members, members.sum(1), torch.ones(())))
    return layer


def their_layer(config: Any, world: World) -> Any:
    """megatron-core's, with its local MLP and its balance loss."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.moe.experts import SequentialMLP
    from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules

    mlp = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    own = replace(
        config,
        moe_token_dispatcher_type="alltoall",
        moe_router_load_balancing_type="aux_loss",
        moe_router_score_function="softmax",
        moe_aux_loss_coeff=0.01,
        use_te_activation_func=False,
        init_method=None,
        output_layer_init_method=None,
    )
    experts = partial(SequentialMLP, submodules=mlp)
    layer = MoELayer(own, MoESubmodules(experts=experts), layer_number=1, pg_collection=world.groups)
    layer.set_layer_number(1)
    return layer


def same_weights(ours: Any, theirs: Any) -> None:
    """Copy ours into theirs."""
    with torch.no_grad():
        theirs.router.weight.copy_(ours.router.weight)
        for number, expert in enumerate(theirs.experts.local_experts):
            expert.linear_fc1.weight.copy_(ours.experts.linear_fc1.weight[number])
            expert.linear_fc2.weight.copy_(ours.experts.linear_fc2.weight[number])


def with_plain_products(step: Step) -> Step:
    """``step`` with every product left to torch."""

    def plain() -> None:
        with unittest.mock.patch.object(products, "in_halves", lambda *_: False):
            step()

    return plain


def floor_of(shape: Shape, dtype: torch.dtype) -> Step:
    """The experts' nine products (three matrices, each forward and twice backward) with an even load."""
    rows = shape.tokens * shape.top_k // shape.experts
    x, hidden = torch.randn(rows, shape.width).to(dtype), torch.randn(rows, shape.ffn).to(dtype)
    both = torch.randn(rows, 2 * shape.ffn).to(dtype)
    fc1, fc2 = torch.randn(2 * shape.ffn, shape.width).to(dtype), torch.randn(shape.width, shape.ffn).to(dtype)

    def step() -> None:
        for _ in range(shape.experts):
            torch.mm(x, fc1.t()), torch.mm(hidden, fc2.t())
            torch.mm(x, fc2), torch.mm(both, fc1)
            torch.mm(x.t(), hidden), torch.mm(both.t(), x)

    return step


def contenders(shape: Shape, dtype: str, world: World) -> dict[str, Step]:
    """The three to be timed; raises AssertionError when the layers do not agree."""
    from megatron_nmm.models.to_mcore import transformer_config

    run = shape.run(dtype)
    config = transformer_config(run, world)
    torch.manual_seed(0)
    x = torch.randn(shape.tokens, 1, shape.width).to(DTYPES[dtype]).requires_grad_()
    grad = torch.randn_like(x)
    ours, theirs = our_layer(shape, run, config, world), their_layer(config, world)
    same_weights(ours, theirs)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=2e-2, atol=2e-2)
    return {
        "ours": step_of(ours, x, grad, WRITTEN),
        "theirs": with_plain_products(step_of(theirs, x, grad)),
        "floor": floor_of(shape, DTYPES[dtype]),
    }


def measure(steps: dict[str, Step], rounds: int, label: str, console: Console) -> dict[str, float]:
    """Median milliseconds of each contender, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in track(range(rounds + 2), description=label, console=console, transient=True):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--rounds", type=positive, default=15, metavar="N", help="turns of each contender (default 15)")
    options, console = parser.parse_args(), Console(width=120)
    world = World.start(RunConfig().parallel, select("cpu"), seed=1)
    import nmm_kernels

    table = Table("experts", "megatron-core ms", "ours ms", "megatron-core / ours", "products alone ms")
    for top_k in (1, 2):
        shape = Shape(top_k=top_k)
        label = f"{shape.experts}, top-{top_k}"
        took = measure(contenders(shape, options.dtype, world), options.rounds, label, console)
        ratio = f"{took['theirs'] / took['ours']:.2f}"
        table.add_row(label, f"{took['theirs']:.1f}", f"{took['ours']:.1f}", ratio, f"{took['floor']:.1f}")
    world.close()
    console.print(
        f"{torch.get_num_threads()} threads, {options.dtype}, {shape.tokens:,} tokens, width {shape.width}, "
        f"experts of {shape.ffn}, dropless token choice; CPU operators: {nmm_kernels.serving()['CPU']}"
    )
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
