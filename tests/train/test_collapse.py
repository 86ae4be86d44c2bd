"""Every alarm sounds at its limit and not before, never about what is frozen, and in a real run that is cut off."""

import contextlib
import io
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_nmm.config import JournalConfig, OptimConfig, RatesConfig, RunConfig
from megatron_nmm.config.schema_model import SparseConfig
from megatron_nmm.models.parts import VISUAL_PARTS
from megatron_nmm.models.patch_stem import PatchStem
from megatron_nmm.models.sparse.router import SparseRouter
from megatron_nmm.train import metrics
from megatron_nmm.train.collapse import LIMITS, RULES, alarms
from megatron_nmm.train.routing import RoutingReading
from megatron_nmm.train.telemetry import TelemetryReading
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.train.readings import HEALTHY, with_part, without
from tests.train.runs import tiny_run, train_job

VISUAL = ("vision", "connector", "visual_ffn")
OTHERS = ("attention", "ffn", "norms")
NAN, INF = math.nan, math.inf


def _found(reading: TelemetryReading) -> list[tuple[str, str]]:
    return [(alarm.rule, alarm.subject) for alarm in alarms(reading)]


def test_a_healthy_step_is_silent() -> None:
    assert alarms(HEALTHY) == []


def _visual_gradient(share: float) -> TelemetryReading:
    """The visual parts hold ``share`` of the gradient norm."""
    others = 0.5 * math.sqrt(3)
    return with_part(HEALTHY, *VISUAL, gradient=share * others / math.sqrt(1 - share**2) / math.sqrt(3))


def _routed(*choices: list[int], steps: int = 1) -> TelemetryReading:
    """Text's choices [E] of each sparse layer, the same in ``steps`` measured steps."""
    routing = None
    for _ in range(steps):
        counts, losses = torch.tensor([[layer, [0] * len(layer)] for layer in choices]), torch.ones(len(choices), 3)
        routing = RoutingReading.of(range(1, len(choices) + 1), counts, losses, routing)
    return replace(HEALTHY, routing=routing)


LIMIT = LIMITS["weak_gradient"]
RATIO = LIMITS["feature_ratio"]
BROKEN = {
    "visual gradient": (_visual_gradient(0.99 * LIMIT), [("weak_gradient", "visual parts")]),
    "visual gradient at the limit": (_visual_gradient(1.01 * LIMIT), []),
    "no visual gradient": (with_part(HEALTHY, *VISUAL, gradient=0.0), [("weak_gradient", "visual parts")]),
    "no other gradient": (with_part(HEALTHY, *OTHERS, gradient=0.0), [("weak_gradient", "parts that serve text")]),
    "no gradient at all": (with_part(HEALTHY, *VISUAL, *OTHERS, gradient=0.0), []),
    "no update": (with_part(HEALTHY, "connector", update=0.0), [("no_update", "connector")]),
    "hardly an update": (with_part(HEALTHY, "ffn", update=0.99e-3 * 0.02), [("no_update", "ffn")]),
    "a small update": (with_part(HEALTHY, "ffn", update=1.01e-3 * 0.02), []),
    "learning rate 0": (with_part(HEALTHY, *VISUAL, *OTHERS, update=0.0, reach=0.0), []),
    "large features": (replace(HEALTHY, visual=(1.0, 2.02 * RATIO, 3.0)), [("feature_ratio", "features")]),
    "small features": (replace(HEALTHY, visual=(1.0, 1.98 / RATIO, 3.0)), [("feature_ratio", "features")]),
    "features at the limit": (replace(HEALTHY, visual=(0.99 * RATIO, 2.02 / RATIO, 3.0)), []),
    "vanished features": (replace(HEALTHY, visual=(0.0, 2.0, 3.0)), [("feature_ratio", "features")]),
    "nan gradient": (with_part(HEALTHY, "norms", gradient=NAN), [("not_finite", "model")]),
    "infinite weight": (with_part(HEALTHY, "norms", weight=INF), [("not_finite", "model")]),
    "even load": (_routed([5, 5, 5, 5]), []),
    "load below the limit": (_routed([82, 18]), [("load_entropy", "load of experts")]),
    "load at the limit": (_routed([81, 19]), []),
    "dead experts by chance": (_routed([9, 9, 9, 0], steps=2), []),
    "dead experts": (_routed([9, 9, 9, 0], steps=3), [("dead_experts", "idle experts")]),
    "nan features": (replace(HEALTHY, visual=(1.5, NAN, NAN)), [("not_finite", "model")]),
}
"""Name -> (reading, the alarms it deserves)."""


@pytest.mark.parametrize("name", BROKEN)
def test_limits(name: str) -> None:
    reading, deserved = BROKEN[name]
    assert _found(reading) == deserved


def test_every_rule_is_broken_here() -> None:
    assert {rule for _, found in BROKEN.values() for rule, _ in found} == {rule.name for rule in RULES}


def test_a_step_without_images_says_nothing_about_the_visual_side() -> None:
    text_only = replace(HEALTHY, visual=(NAN, NAN, NAN), visual_rows=0)
    assert _found(with_part(text_only, *VISUAL, gradient=0.0, update=0.0)) == []


def test_special_embeddings_may_stand_still() -> None:
    still = replace(HEALTHY.parts["vision"], gradient=0.0, update=0.0)
    assert alarms(replace(HEALTHY, parts={**HEALTHY.parts, "special_embeddings": still})) == []


def test_what_is_frozen_is_not_looked_at() -> None:
    dead = with_part(HEALTHY, *VISUAL, gradient=0.0, update=0.0)
    assert len(_found(dead)) == 4
    assert _found(without(dead, *VISUAL)) == []
    assert _found(without(HEALTHY, *OTHERS)) == []


def test_texts_state_value_limit_and_remedy() -> None:
    (alarm,) = alarms(replace(HEALTHY, visual=(100.0, 2.0, 200.0)))
    assert alarm.value == 100.0
    assert alarm.text.startswith(
        "after layer 1 visual features are 1e+02 times as large as those of text (outside 1/30 to 30 after 2 of 3 "
        "layers); look at the scale"
    )
    (alarm,) = alarms(replace(HEALTHY, visual=(1.0, NAN, INF), text=(1.0, 1.0, NAN)))
    assert alarm.text.startswith("not finite: text features from layer 3 on, visual features from layer 2 on; ")


def test_texts_about_experts_name_the_worst_layer() -> None:
    low, dead = alarms(_routed([4, 4, 4, 0], [9, 0, 0, 0], steps=4))
    assert (low.rule, low.value, low.limit) == ("load_entropy", 0.0, 0.7)
    assert low.text.startswith(
        "the load of the experts in layer 2 has entropy 0, below 0.7 (1 is even; so in 1 of 2 sparse layers), the "
        "most loaded one takes 4 x the mean; raise model.sparse.balance_loss"
    )
    assert (dead.rule, dead.value, dead.limit) == ("dead_experts", 4.0, 3)
    assert dead.text.startswith(
        "4 experts got no token in 3 or more measured steps in a row, at most 4 (most of them in layer 2: 1, 2, 3); "
    )
    _, dead = alarms(_routed([9] + [0] * 20, steps=3))
    assert "in layer 1: 1, 2, 3, 4, 5, 6, 7, 8, ...)" in dead.text


def _dead_run(folder: Path, **changes: Any) -> RunConfig:
    journal = JournalConfig(tensorboard=True, telemetry=2)
    return tiny_run(folder, journal=journal, optim=OptimConfig(learning_rate=1e-2, **changes))


def test_a_run_whose_images_are_cut_off_from_the_loss_says_so(tmp_path: Path, pool: WorkerPool) -> None:
    run = _dead_run(tmp_path)
    (said,) = pool.run(1, _train_cut_off, run)
    records = metrics.read(Path(run.folder) / metrics.NAME)
    assert [r["step"] for r in records if r["event"] == "telemetry"] == [2, 4, 6]
    found = Counter((r["rule"], r["subject"], r["value"]) for r in records if r["event"] == "alarm")
    assert found == {("weak_gradient", "visual parts", 0.0): 3, ("no_update", "vision", 0.0): 3}
    # A standing alarm is new once.
    assert said.count("ALARM in step 2: the gradient of the visual parts is 0.0e+00 of the whole, below 0.0001") == 1
    assert said.count("ALARM in step 2: vision moves by 0.0e+00 of its learning rate, below 0.001") == 1
    assert said.count("ALARM") == 2
    assert "alarms in 3 measured steps, last in step 6: see " in said


def test_a_run_whose_images_are_frozen_raises_no_alarm(tmp_path: Path, pool: WorkerPool) -> None:
    run = _dead_run(tmp_path, rates=RatesConfig(vision=0.0))
    (said,) = pool.run(1, _train_cut_off, run)
    records = metrics.read(Path(run.folder) / metrics.NAME)
    readings = [r for r in records if r["event"] == "telemetry"]
    assert len(readings) == 3
    assert not any(name in VISUAL_PARTS for r in readings for name in r["parts"])
    assert not [r for r in records if r["event"] in ("alarm", "routing")]
    assert not (Path(run.folder) / "routing.png").exists()
    assert "ALARM" not in said


def test_a_run_of_sparse_experts_draws_their_routing_and_alarms_when_they_lie_idle(
    tmp_path: Path, pool: WorkerPool
) -> None:
    run = _dead_run(tmp_path, rates=RatesConfig(router=0.0))
    run = replace(run, model=replace(run.model, sparse=SparseConfig(experts=4)))
    (said,) = pool.run(1, _train_with_one_expert, run)
    records = metrics.read(Path(run.folder) / metrics.NAME)
    routing = [r for r in records if r["event"] == "routing"]
    assert [r["step"] for r in routing] == [2, 4, 6]
    assert all(r["layers"] == [1, 2] and r["dead"] == [[0, 1, 3]] * 2 for r in routing)
    found = Counter((r["rule"], r["value"]) for r in records if r["event"] == "alarm")
    assert found["load_entropy", 0.0] == 3 and found["dead_experts", 3.0] == 1
    assert said.count("routing of step ") == 2, "a log gets the first and the last one"
    assert "ALARM in step 2: the load of the experts in layer 1 has entropy 0, below 0.7" in said
    assert "ALARM in step 6: 6 experts got no token in 3 or more measured steps in a row" in said
    assert "telemetry.png and " in said and (Path(run.folder) / "routing.png").exists()


def _train_with_one_expert(place: Place, run: RunConfig) -> str:
    """What a run says whose routers choose expert 2 whatever they see."""
    real = SparseRouter.gating

    def gating(self: SparseRouter, input: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = real(self, input)
        return scores + 1e3 * (torch.arange(scores.shape[-1]) == 2)

    said = io.StringIO()
    SparseRouter.gating = gating
    try:
        with contextlib.redirect_stdout(said):
            train_job(place, run)
    finally:
        SparseRouter.gating = real
    return said.getvalue()


def _train_cut_off(place: Place, run: RunConfig) -> str:
    """What a run says in which no gradient reaches the patch stem."""
    real = PatchStem.forward

    def cut_off(self: PatchStem, patches: torch.Tensor) -> torch.Tensor:
        return real(self, patches).detach()

    said = io.StringIO()
    PatchStem.forward = cut_off  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stdout(said):
            train_job(place, run)
    finally:
        PatchStem.forward = real  # type: ignore[method-assign]
    return said.getvalue()
