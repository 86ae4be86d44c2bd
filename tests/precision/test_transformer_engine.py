"""The Transformer Engine path without a GPU: its tree against the CPU's, with a stand-in that has its signatures."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.config.io import save
from megatron_nmm.config.schema import Recipe
from megatron_nmm.verify import compare
from megatron_nmm.verify.layouts import SINGLE
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.house.tree import ROOT
from tests.precision import fake_engine
from tests.precision.engine_job import places
from tests.precision.test_parity import run_of

CASES: dict[str, tuple[Recipe, str, dict[str, Any]]] = {
    "dense": ("fp8_delayed", "dense", {}),
    "modality experts, encoder": ("mxfp8", "modality experts, encoder", {}),
    "sparse": ("fp8_current", "sparse", {"plain_first": 1}),
}
TOLERANCE = 1e-5
"""The stand-in multiplies in fp32: what it computes is the plain model."""

LINEAR, NORM_LINEAR = "TEColumnParallelLinear", "TELayerNormColumnParallelLinear"
ROW, GROUPED = "TERowParallelLinear", ("TEColumnParallelGroupedLinear", "TERowParallelGroupedLinear")
CLASSES = {
    "dense": {
        "decoder.layers.0.self_attention.linear_qkv": NORM_LINEAR,
        "decoder.layers.0.self_attention.linear_proj": ROW,
        "decoder.layers.1.mlp.linear_fc1": NORM_LINEAR,
        "decoder.layers.1.mlp.linear_fc2": ROW,
        "decoder.final_layernorm": "FewPassRMSNorm",
        "output_layer": "ColumnParallelLinear",
        "patch_stem.linear": "Linear",
    },
    "modality experts, encoder": {
        "decoder.layers.0.self_attention.linear_qkv": LINEAR,
        "decoder.layers.0.self_attention.linear_proj": "EngineProjection",
        "decoder.layers.0.self_attention.visual.linear_proj": ROW,
        "decoder.layers.0.mlp.visual.linear_fc1": LINEAR,
        "decoder.layers.0.input_layernorm": "FewPassRMSNorm",
        "vision_encoder.block.layers.0.self_attention.linear_qkv": NORM_LINEAR,
        "vision_encoder.connector.fc1": "Linear",
        "vision_encoder.patch_stem.linear": "Linear",
    },
    "sparse": {
        "decoder.layers.0.self_attention.linear_qkv": NORM_LINEAR,
        "decoder.layers.0.pre_mlp_layernorm": "FewPassRMSNorm",
        "decoder.layers.0.mlp.router": "SparseRouter",
        "decoder.layers.0.mlp.experts.linear_fc1": GROUPED[0],
        "decoder.layers.0.mlp.experts.linear_fc2": GROUPED[1],
    },
}
"""What stands where, and what stays in higher precision."""


class Both:
    """A case on the CPU's plain layers and on Transformer Engine's."""

    def __init__(self, name: str, pool: WorkerPool, folder: Path) -> None:
        self.name = name
        recipe, model, settings = CASES[name]
        plain = run_of("plain", model)
        self.run = run_of(recipe, model, **settings)
        state = compare.initial_state(pool, plain)
        self.cpu = compare.step(pool, plain, SINGLE, state)
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}
        self.engine = step_on_engine(self.run, state, folder)


def step_on_engine(run: RunConfig, state: compare.State, folder: Path) -> dict[str, Any]:
    """engine_job.py, a process for each rank."""
    config, weights, result = (folder / name for name in ("run.json", "weights.pt", "result.pt"))
    save(run, config)
    torch.save(state, weights)
    command = [sys.executable, "-m", "tests.precision.engine_job", str(config), str(weights), str(result)]
    ranks = [
        subprocess.Popen([*command, str(rank)], cwd=ROOT, text=True, stderr=subprocess.PIPE)
        for rank in range(run.parallel.processes)
    ]
    told = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), "\n".join(told)[-3000:]
    found: dict[str, Any] = torch.load(result, weights_only=True)
    return found


@pytest.fixture(scope="module", params=CASES)
def both(request: pytest.FixtureRequest, pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(request.param, pool, tmp_path_factory.mktemp("engine"))


def test_checkpoints_have_the_same_names_and_shapes(both: Both) -> None:
    assert both.engine["shapes"] == both.shapes


def test_the_trees_compute_the_same(both: Both) -> None:
    """Weights loaded by their checkpoint names, norms inside linear layers, rows filled up, experts grouped."""
    found = compare.StepResult(both.engine["loss"], both.engine["gradients"])
    comparison = compare.compare(both.cpu, found, SINGLE)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)


def test_each_module_is_the_one_meant(both: Both) -> None:
    meant = CLASSES[both.name]
    assert {place: both.engine["tree"].get(place) for place in meant} == meant


def test_recipes_cover_the_layers_they_should(both: Both) -> None:
    """A context around the whole decoder, or one a layer, for each of two microbatches."""
    contexts = {
        "dense": ["DelayedScaling"] * 2,
        "modality experts, encoder": ["MXFP8BlockScaling"] * 2 * 3,
        "sparse": ["Float8CurrentScaling"] * 2 * 1,  # of two layers the first is plain
    }
    assert both.engine["entered"] == [("fp8_autocast", recipe) for recipe in contexts[both.name]]


def test_tensor_ranks_hold_the_same_shards(pool: WorkerPool, tmp_path: Path) -> None:
    """Weights are cut along the same axes, at the same places, and norms inside linear layers are whole."""
    run = run_of("fp8_current", "modality experts, encoder")
    run = replace(run, parallel=replace(run.parallel, tensor=2, sequence=True))
    plain = replace(run, precision=replace(run.precision, recipe="plain"))
    assert step_on_engine(run, {}, tmp_path) == pool.run(2, _places, plain)[0]


def _places(place: Place, run: RunConfig) -> dict[str, Any]:
    from megatron_nmm.models.build import build
    from megatron_nmm.parallel import full_state

    with place.world(run.parallel, run.seed) as world:
        return {piece.key: (*map(tuple, places(piece)),) for piece in full_state.pieces(build(run, world))}


def test_the_stand_in_refuses_what_transformer_engine_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"in_features": 32, "out_features": 32, "tp_size": 1, "parallel_mode": None, "bias": False}
    layer = fake_engine.Linear(**given, params_dtype=torch.float32, device="cpu")
    with pytest.raises(TypeError, match="Linear does not take sharded"):
        fake_engine.Linear(**given, params_dtype=torch.float32, device="cpu", sharded=True)
    layer(torch.zeros(7, 32))
    monkeypatch.setattr(fake_engine.Recipe, "current", fake_engine.RECIPES["MXFP8BlockScaling"]())
    layer(torch.zeros(64, 1, 32))
    with pytest.raises(ValueError, match=r"MXFP8BlockScaling does not take \(16, 32\)"):
        layer(torch.zeros(16, 32))
