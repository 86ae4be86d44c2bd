"""Rules of sparse experts: their wording, agreement with an oracle, remedies that cure, packages that are missing."""

import itertools
import json
import random
from collections.abc import Sequence

import pytest

from megatron_nmm.config import RunConfig, needs, versions
from megatron_nmm.config.check import check
from megatron_nmm.config.command_line import processes
from megatron_nmm.config.overrides import apply
from megatron_nmm.errors import ConfigError
from tests.config.test_rules import offers

RUN = RunConfig()
EIGHT = "model.sparse.experts=8"


def faults(changes: Sequence[str], world_size: int = 1) -> list[str]:
    """The faults of the default run with some changes, as text."""
    return [str(fault) for fault in check(apply(RUN, changes), world_size)]


@pytest.mark.parametrize(
    ("changes", "world_size", "told"),
    [
        (
            ["model.sparse.experts=4", "model.sparse.top_k=6"],
            1,
            "model.sparse.top_k 6 is more than model.sparse.experts 4; use model.sparse.top_k 4, "
            "or model.sparse.experts 6",
        ),
        (
            [EIGHT, "model.sparse.dense_layers=[0, 24]"],
            1,
            "model.sparse.dense_layers names layer 24, and model.layers 24 ends at 23; "
            "use model.sparse.dense_layers [0]",
        ),
        (
            [EIGHT, "model.layers=2", "model.sparse.dense_layers=[0, 1]"],
            1,
            "model.sparse.dense_layers [0, 1] leaves no layer to the 8 experts; use model.sparse.dense_layers [], "
            "or model.sparse.experts 0",
        ),
        (
            [EIGHT, "model.modality_experts=ffn"],
            1,
            "model.sparse.experts 8 and model.modality_experts ffn both take the place of the MLP; use "
            "model.modality_experts none, or model.sparse.experts 0",
        ),
        (
            ["parallel.expert=2"],
            2,
            "parallel.expert 2 spreads sparse experts, and the model has none; use parallel.expert 1, "
            "or model.sparse.experts 8",
        ),
        (
            [EIGHT, "parallel.expert=3", "data.global_batch=12"],
            12,
            "model.sparse.experts 8 is not divisible by parallel.expert 3; use parallel.expert 1, 2 or 4, "
            "or model.sparse.experts 6 or 9",
        ),
        (
            [EIGHT, "parallel.expert=4"],
            2,
            "the 2 processes of a pipeline stage (world size 2 / parallel.pipeline 1) are not divisible by "
            "parallel.expert 4; use parallel.expert 1 or 2, or a world size of 4",
        ),
        (
            [EIGHT, "parallel.tensor=2"],
            2,
            "parallel.tensor 2 without parallel.sequence gives every tensor rank the same tokens, and sparse experts "
            "would meet each of them that often; use parallel.sequence true, or parallel.tensor 1",
        ),
        (
            [EIGHT, "parallel.dispatcher=deepep", "device=cpu"],
            1,
            "parallel.dispatcher deepep runs on GPUs, and device is cpu; use parallel.dispatcher kernels, alltoall or "
            "allgather",
        ),
    ],
)
def test_wording(changes: list[str], world_size: int, told: str) -> None:
    assert faults(changes, world_size) == [told]


CHOICES: dict[str, list[object]] = {
    "model.layers": [2, 3],
    "model.sparse.experts": [0, 4, 6],
    "model.sparse.top_k": [1, 2, 5],
    "model.sparse.dense_layers": ["[]", "[1]", "[0, 1]", "[2]"],
    "model.modality_experts": ["none", "none", "none", "ffn"],
    "parallel.expert": [1, 2, 3, 4],
    "parallel.tensor": [1, 2],
    "parallel.sequence": ["false", "true"],
    "parallel.pipeline": [1, 2],
    "parallel.context": [1, 1, 2],
}
HELD = ["data.global_batch=48", "data.sequence_length=16", "data.image_size=28"]


def legal(v: dict[str, object], world: int) -> bool:
    """Whether a run may start, written anew and without any of the code under test."""
    layers, experts, top_k, share, tensor, stages = (
        int(str(v[key]))
        for key in ("model.layers", "model.sparse.experts", "model.sparse.top_k", "parallel.expert",
                    "parallel.tensor", "parallel.pipeline")
    )  # fmt: skip
    sequence = v["parallel.sequence"] == "true"
    if world % (tensor * stages * int(str(v["parallel.context"]))) or (sequence and tensor == 1):
        return False
    if not experts:
        return share == 1
    dense = set(json.loads(str(v["model.sparse.dense_layers"])))
    return (
        top_k <= experts
        and v["model.modality_experts"] == "none"
        and dense < set(range(layers))
        and experts % share == 0
        and world // stages % share == 0
        and (tensor == 1 or sequence)
    )


def draws(seed: int, count: int) -> list[tuple[dict[str, object], int]]:
    """Random models and world sizes."""
    draw = random.Random(seed)
    return [
        ({key: draw.choice(choices) for key, choices in CHOICES.items()}, draw.choice([1, 2, 4, 6, 12]))
        for _ in range(count)
    ]


def changed(values: dict[str, object]) -> RunConfig:
    """The held run with these values."""
    return apply(RUN, [*HELD, *(f"{key}={value}" for key, value in values.items())])


def test_no_fault_exactly_when_the_oracle_says_legal() -> None:
    seen = {True: 0, False: 0}
    for values, world in draws(1, 4000):
        expected = legal(values, world)
        seen[expected] += 1
        assert (check(changed(values), world) == ()) == expected, (values, world)
    assert min(seen.values()) > 100


def test_every_value_a_remedy_offers_cures_its_fault() -> None:
    tried: set[str] = set()
    for values, world in draws(2, 400):
        for fault in check(changed(values), world):
            for key, value in offers(fault.remedy):
                mended = int(value) if key == "world" else world
                run = changed(values) if key == "world" else apply(changed(values), [f"{key}={value}"])
                assert fault.fact not in [other.fact for other in check(run, mended)], (fault, key, value)
                tried.add(key)
    assert {"parallel.expert", "model.sparse.experts", "parallel.sequence", "world"} <= tried


def test_one_process_is_started_for_each_rank_of_a_copy() -> None:
    for tensor, expert, stages, context in itertools.product((1, 2, 4), (1, 2, 3), (1, 2), (1, 2)):
        sizes = {"tensor": tensor, "expert": expert, "pipeline": stages, "context": context}
        run = apply(RUN, [f"parallel.{name}={size}" for name, size in sizes.items()])
        wanted = next(n for n in range(1, 100) if n % (tensor * context) == 0 == n % expert) * stages
        assert processes(run, {}) == wanted


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    (fault,) = needs.package_faults(apply(RUN, [EIGHT]))
    assert str(fault) == (
        "model.sparse.experts 8 needs the package nmm_kernels, which is not installed; install it with: "
        "pip install ./kernels (from the repository)"
    )
    assert not list(needs.package_faults(RUN))


@pytest.mark.parametrize(
    ("installed", "told"),
    [
        ({}, "parallel.dispatcher deepep needs the package deep_ep, which is not installed; build DeepEP"),
        ({"deep_ep": "1.2.1"}, "deep_ep 1.2.1 needs nvidia-nvshmem-cu13 3.3 or newer (its kernels reach other nodes"),
        ({"deep_ep": "1.2.1", "nvidia-nvshmem-cu12": "3.2.5"}, "3.3 or newer (its kernels reach other nodes through"),
        ({"deep_ep": "2.0", "torch": "2.14.1", "nvidia-nccl-cu13": "2.29.7"}, "2.30.4 or newer"),
        ({"deep_ep": "2.0", "torch": "2.9.0+cu130", "nvidia-nccl-cu13": "2.30.4"}, "needs torch 2.10 or newer"),
    ],
)
def test_what_deepep_lacks_is_named_before_the_first_collective(
    installed: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron_nmm.device import deepep

    monkeypatch.setattr(versions.importlib.metadata, "version", _only(installed))
    with pytest.raises(ConfigError, match="the run cannot start") as raised:
        deepep.require_deepep()
    assert told in str(raised.value) and "or use parallel.dispatcher kernels" in str(raised.value)


def test_a_complete_deepep_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron_nmm.device import deepep

    installed = {"deep_ep": "2.1.0", "torch": "2.14.1+cu130", "nvidia-nccl-cu12": "2.30.4"}
    monkeypatch.setattr(versions.importlib.metadata, "version", _only(installed))
    deepep.require_deepep()


def _only(installed: dict[str, str]):  # type: ignore[no-untyped-def]
    import importlib.metadata

    def version(package: str) -> str:
        if package not in installed:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed[package]

    return version
