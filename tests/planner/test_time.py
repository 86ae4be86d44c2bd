"""Step times: waiting against a simulated schedule, FLOPs against the tables, links by who shares them."""

from dataclasses import replace
from itertools import product

import pytest

from megatron_nmm.config import ModelConfig, ParallelConfig, RunConfig
from megatron_nmm.config.overrides import apply
from megatron_nmm.config.presets import navil, sparse_early_fusion
from megatron_nmm.models.accounting import step_flops
from megatron_nmm.planner.efficiency import shares
from megatron_nmm.planner.gpus import GPUS
from megatron_nmm.planner.layouts import laid_out
from megatron_nmm.planner.load import typical
from megatron_nmm.planner.place import Place
from megatron_nmm.planner.plan import option
from megatron_nmm.planner.time import Seconds, bubble, flow_seconds, operations, step_seconds
from megatron_nmm.planner.traffic import Flow, flows, link
from tests.planner.toys import TOYS

H100 = GPUS["h100"]
SHAPES = [(1, 4), (2, 2), (2, 8), (4, 4), (4, 16), (8, 3)]
"""(stages, microbatches)."""


def simulated(forward: list[float], backward: list[float], microbatches: int) -> float:
    """When one forward, one backward ends: stage i starts p - i forward passes ahead, then takes turns."""
    stages = len(forward)
    orders = []
    for stage in range(stages):
        ahead = min(stages - stage - 1, microbatches)
        order = [("f", m) for m in range(ahead)]
        for m in range(microbatches - ahead):
            order += [("f", ahead + m), ("b", m)]
        orders.append(order + [("b", m) for m in range(microbatches - ahead, microbatches)])
    ends: dict[tuple[str, int, int], float] = {}
    clock, place = [0.0] * stages, [0] * stages
    while any(place[stage] < len(orders[stage]) for stage in range(stages)):
        for stage in range(stages):
            while place[stage] < len(orders[stage]):
                kind, m = orders[stage][place[stage]]
                before = ("f", stage - 1, m) if kind == "f" else ("b", stage + 1, m)
                waits = 0 <= before[1] < stages
                if waits and before not in ends:
                    break
                start = max(clock[stage], ends[before] if waits else 0.0)
                clock[stage] = start + (forward if kind == "f" else backward)[stage]
                ends[kind, stage, m] = clock[stage]
                place[stage] += 1
    return max(clock)


def place_of(stages: int, microbatches: int, virtual: int = 1) -> Place:
    run = replace(TOYS["dense"], model=ModelConfig(layers=16), parallel=ParallelConfig(pipeline=stages))
    run = replace(run, data=replace(run.data, microbatch=1, global_batch=microbatches))
    return replace(Place.of(run, stages), virtual=virtual)


def only(seconds: float) -> Seconds:
    return Seconds(products=seconds, attention=0.0, rest=0.0, sent=0.0, reduced=0.0, update=0.0)


@pytest.mark.parametrize(("stages", "microbatches"), SHAPES)
def test_even_stages_wait_as_the_formula_says(stages: int, microbatches: int) -> None:
    place = place_of(stages, microbatches)
    seconds = step_seconds([only(3.0 * microbatches)] * stages, place)
    assert seconds == pytest.approx(simulated([1.0] * stages, [2.0] * stages, microbatches))
    assert 1 - 3.0 * microbatches / seconds == pytest.approx(bubble(stages, microbatches))
    assert bubble(stages, microbatches) == pytest.approx((stages - 1) / (microbatches + stages - 1))


def test_rounds_shorten_the_waiting() -> None:
    assert bubble(4, 8, virtual=2) == pytest.approx(3 / 19)
    seconds = step_seconds([only(8.0)] * 4, place_of(4, 8, virtual=2))
    assert 1 - 8.0 / seconds == pytest.approx(bubble(4, 8, virtual=2))


@pytest.mark.parametrize("slow", range(4))
def test_the_slowest_stage_sets_the_pace(slow: int) -> None:
    """A heavy encoder on the first stage, or any other: within 10 % of the simulated schedule, and never below."""
    factors = [1.5 if stage == slow else 1.0 for stage in range(4)]
    seconds = step_seconds([only(3.0 * 12 * factor) for factor in factors], place_of(4, 12))
    expected = simulated(factors, [2 * factor for factor in factors], 12)
    assert expected * 0.999 <= seconds <= expected * 1.1


@pytest.mark.parametrize(("toy", "recompute"), list(product(TOYS, ("none", "full"))))
def test_stages_share_the_operations_of_the_model(toy: str, recompute: str) -> None:
    run = laid_out(TOYS[toy], {"parallel.tensor": 1, "parallel.pipeline": 2, "parallel.recompute": recompute})
    place = Place.of(run, 2)
    load = typical(run, place)
    of_stages = [operations(run, place, rank, load) for rank in range(2)]
    whole = step_flops(run.model, load.work)
    assert sum(stage.model for stage in of_stages) == pytest.approx(whole.total)
    again = sum(stage.again for stage in of_stages)
    assert again == 0 if recompute == "none" else 0.3 * whole.forward < again < whole.forward


def test_a_group_within_a_node_never_meets_the_network() -> None:
    assert [link(span) for span in (1, 2, 4, 8, 3, 16, 64)] == ["node"] * 4 + ["network"] * 3
    run = laid_out(RunConfig(model=sparse_early_fusion("1.627b")), {"parallel.tensor": 2, "parallel.expert": 32})
    run = replace(
        run,
        data=replace(run.data, global_batch=256),
        model=replace(run.model, sparse=replace(run.model.sparse, experts=32)),
    )
    place = Place.of(run, 64)
    sent = {flow.what: flow for flow in flows(run, place, 0, typical(run, place))}
    assert sent["decoder layers"].link == "node"
    # A rank's 31 peers: 7 beside it, 24 elsewhere.
    assert sent["rows to other nodes"].bytes / sent["rows in the node"].bytes == pytest.approx(24 / 7)
    assert sent["gradients"].link == "network"


def test_ranks_of_a_node_share_the_way_out() -> None:
    """Eight data ranks a node send an eighth each of what one would, tensor groups of eight all of it."""
    run = RunConfig(model=navil("2b"))
    run = replace(run, data=replace(run.data, sequence_length=4096, global_batch=64))
    sizes = {}
    for tensor in (1, 2):
        changed = laid_out(run, {"parallel.tensor": tensor, "parallel.vision": "tensor"})
        place = replace(Place.of(changed, 64), encoder=1)
        flow = next(f for f in flows(changed, place, 0, typical(changed, place)) if f.what == "gradients")
        sizes[tensor] = (flow.bytes, flow.ranks)
    assert sizes[1][1] == 64 and sizes[2][1] == 32
    # 8 nodes either way: of n bytes 7/8 n, sent by 8 or by 4 ranks of the node, for the whole model or about half.
    assert sizes[1][0] < sizes[2][0] * 1.2


def test_what_is_hidden_costs_nothing() -> None:
    flow = Flow("data", "gradients", 64, "network", 40e9, False, overlapped=True)
    assert flow_seconds(flow, H100, shares()) == pytest.approx(0.2)
    assert flow_seconds(replace(flow, overlapped=False), H100, shares()) == pytest.approx(1.0)
    assert flow_seconds(flow, H100, shares(["data_overlap=0.75"])) == pytest.approx(0.25)
    assert flow_seconds(flow, H100, shares(["tensor_overlap=0.75"])) == pytest.approx(0.2)


def test_efficiency_scales_what_it_names() -> None:
    run = laid_out(TOYS["dense"], {"parallel.tensor": 1})
    place = Place.of(run, 1)
    usual, half = (option(run, place, H100, shares(changes)).ranks[0] for changes in ([], ["products=0.3"]))
    assert half.products == pytest.approx(2 * usual.products)
    assert half.attention == usual.attention
    assert option(run, place, H100, shares(["0.2"])).ranks[0].attention == pytest.approx(usual.attention * 0.35 / 0.2)


def test_mfu_is_flops_over_peak() -> None:
    run = laid_out(TOYS["dense"], {"parallel.tensor": 1})
    place = Place.of(run, 2)
    one = option(run, place, H100, shares())
    flops = step_flops(run.model, typical(run, place).work).total / place.rows * run.data.global_batch
    assert one.mfu(H100) == pytest.approx(flops / (one.seconds * 2 * H100.bf16))
    assert 0 < one.mfu(H100) < 0.6


def test_eight_bits_speed_products_up_and_keep_less() -> None:
    run = laid_out(RunConfig(model=navil("2b")), {"parallel.tensor": 2})
    place = Place.of(replace(run, data=replace(run.data, global_batch=64)), 8)
    recipes = [apply(run, [f"precision.recipe={name}"]) for name in ("plain", "fp8_current")]
    plain, eight = (option(each, place, H100, shares()) for each in recipes)
    some = option(apply(recipes[1], ["precision.plain_first=4"]), place, H100, shares())
    kept = apply(recipes[1], ["precision.fp8_parameters=true"])
    assert 0.5 < eight.ranks[0].products / plain.ranks[0].products < 0.7  # the output layer stays as it is
    assert eight.memory.activations < some.memory.activations < plain.memory.activations
    assert option(kept, place, H100, shares()).memory.weights == plain.memory.weights < eight.memory.weights
