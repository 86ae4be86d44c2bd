"""What a plan says: tables of the best layouts and of the best one's traffic, why it wins, and all of it as data."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from megatron_nmm.planner.efficiency import ASSUMPTIONS, Shares
from megatron_nmm.planner.layouts import changes
from megatron_nmm.planner.plan import Option, Plan, by_mode
from megatron_nmm.planner.time import flow_seconds

KINDS = ("weights", "gradients", "optimizer", "activations", "working")
"""Of memory, in the order of Memory."""

PARTS = {
    "products": "computing products",
    "attention": "computing attention",
    "rest": "in norms, gates and added-up gradients",
    "sent": "sending between ranks of a copy",
    "waiting": "waiting for other stages",
    "reduced": "reducing gradients over data ranks",
    "update": "updating weights",
}
"""Where a step's time goes -> how the reason words it."""


def headline(plan: Plan) -> str:
    """One line: what was planned, and how many layouts there are."""
    best = plan.best.run
    data = best.data
    return (
        f"{best.name} on {plan.gpus:,} x {plan.gpu.name}: {plan.legal} legal layouts, {len(plan.fitting)} fit; a step "
        f"is {data.global_batch:,} rows of {data.sequence_length:,} tokens"
    )


def table(plan: Plan, count: int) -> Table:
    """The best ``count`` layouts; GB = 10^9 bytes of the fullest rank."""
    out = Table("layout", "data", "microbatches", "recompute", *KINDS, "GB", "bubble", "slowest stage", "step s", "MFU")
    for option in plan.fitting[:count]:
        used, place = option.memory, option.place
        out.add_row(
            layout(option),
            str(place.data),
            f"{place.microbatches} x {place.rows}",
            option.run.parallel.recompute,
            *(f"{getattr(used, kind) / 1e9:.1f}" for kind in KINDS),
            f"[bold]{used.total / 1e9:.1f}[/]",
            f"{option.bubble:.1%}",
            f"{option.imbalance:.2f} x mean",
            f"{option.seconds:.3g}",
            f"{option.mfu(plan.gpu):.1%}",
        )
    return out


def layout(option: Option) -> str:
    """``TP8+SP PP2``; sizes of one are left out."""
    place = option.place
    sizes = {"TP": place.tensor, "CP": place.context, "PP": place.pipeline, "VPP": place.virtual, "EP": place.expert}
    words = [f"{name}{size}" + "+SP" * (name == "TP") for name, size in sizes.items() if size > 1]
    return " ".join(words) or "data parallel"


def links(plan: Plan, shares: Shares) -> Table:
    """What a rank of the best layout sends in a step, of the pipeline rank that sends for longest."""
    out = Table("traffic of a rank", "group", "ranks", "link", "GB a step", "s a step, not hidden")
    for flow in plan.best.sent:
        link = "NVLink" if flow.link == "node" else "network"
        seconds = flow_seconds(flow, plan.gpu, shares)
        out.add_row(flow.what, flow.kind, str(flow.ranks), link, f"{flow.bytes / 1e9:.2f}", f"{seconds:.3f}")
    return out


def parts(option: Option) -> dict[str, float]:
    """Seconds of a step by part, on the pipeline rank with most to do."""
    slowest = max(option.ranks, key=lambda rank: rank.microbatches)
    found = vars(slowest) | {"waiting": 0.0}
    return {**found, "waiting": option.seconds - sum(found.values())}


def why(plan: Plan) -> str:
    """Why the first layout is faster than the second."""
    best = plan.best
    if len(plan.fitting) == 1:
        return f"{layout(best)} is the only layout that fits"
    second = plan.fitting[1]
    ours, theirs = parts(best), parts(second)
    gains = {part: theirs[part] - ours[part] for part in PARTS}
    part = max(gains, key=lambda part: gains[part])
    lost = min(gains, key=lambda part: gains[part])
    faster = second.seconds / best.seconds - 1
    line = f"{layout(best)} ({_rows(best)}) is {faster:.1%} faster than {layout(second)} ({_rows(second)})"
    if gains[part] > 0:
        line += f": {gains[part]:.2g} s less {PARTS[part]}"
        if gains[lost] < 0:
            line += f", {-gains[lost]:.2g} s more {PARTS[lost]}"
    return line


def _rows(option: Option) -> str:
    return f"{option.place.microbatches} x {option.place.rows}, recompute {option.run.parallel.recompute}"


def images(plan: Plan) -> str:
    """What images cost the best layout's first stage."""
    best = plan.best
    share = best.memory.vision / best.memory.activations if best.memory.activations else 0.0
    stages = " + ".join(str(len(layers)) for layers in best.place.layers)
    return (
        f"stages of {stages} decoder layers; images take {best.image_flops:.0%} of a step's FLOPs and {share:.0%} of "
        f"the activations of the fullest rank (stage {best.rank + 1})"
    )


def modes(plan: Plan) -> str:
    """Activations of the best layout by what is recomputed."""
    sizes = ", ".join(f"{mode} {size / 1e9:.1f} GB" for mode, size in by_mode(plan.best).items())
    return f"activations by what is recomputed: {sizes}; each layout recomputes as little as fits"


def selects(plan: Plan) -> str:
    """The options that lay a run out like the best."""
    return " ".join(f"--set {change}" for change in changes(plan.best.run, plan.gpus))


def assumptions(plan: Plan, shares: Shares) -> Iterator[str]:
    """What the times rest on, one line each."""
    gpu = plan.gpu
    yield (
        f"Times are predictions, not measurements. {gpu.name}: {gpu.bf16 / 1e12:,.0f} TFLOP/s bf16, "
        f"{gpu.fp8 / 1e12:,.0f} FP8, {gpu.memory / 1e9:.0f} GB at {gpu.bandwidth / 1e9:,.0f} GB/s, NVLink "
        f"{gpu.node_link / 1e9:.0f}, network {gpu.network / 1e9:.0f} GB/s one way ({gpu.source})."
    )
    told = "; ".join(f"{name} {shares[name]:g} {assumption.of}" for name, assumption in ASSUMPTIONS.items())
    yield f"Assumed (--efficiency NAME=VALUE): {told}."
    yield (
        "Rows are full, one document each, 54.4 % of them image tokens; sparse experts are evenly loaded; tensor "
        "groups stay in a node; latencies are left out. MFU counts the FLOPs a model needs, without recomputation, "
        "against the bf16 peak."
    )


def as_data(plan: Plan, shares: Shares, count: int) -> dict[str, Any]:
    """The same as plain values, bytes and seconds."""
    return {
        "run": plan.best.run.name,
        "gpus": plan.gpus,
        "gpu": vars(plan.gpu),
        "assumptions": dict(shares),
        "legal": plan.legal,
        "fitting": len(plan.fitting),
        "why": why(plan),
        "activations_by_recompute": by_mode(plan.best),
        "layouts": [_option(option, plan, shares) for option in plan.fitting[:count]],
    }


def _option(option: Option, plan: Plan, shares: Shares) -> dict[str, Any]:
    place = option.place
    return {
        "layout": layout(option),
        "set": changes(option.run, plan.gpus),
        "stages": [list(layers) for layers in place.layers],
        "data": place.data,
        "microbatches": place.microbatches,
        "rows": place.rows,
        "memory": vars(option.memory) | {"total": option.memory.total, "stage": option.rank},
        "bubble": option.bubble,
        "imbalance": option.imbalance,
        "image_flops": option.image_flops,
        "step_s": option.seconds,
        "seconds": parts(option),
        "mfu": option.mfu(plan.gpu),
        "tokens_per_second_and_gpu": option.tokens_per_second(),
        "traffic": [vars(flow) | {"seconds": flow_seconds(flow, plan.gpu, shares)} for flow in option.sent],
    }
