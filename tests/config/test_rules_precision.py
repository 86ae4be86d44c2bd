"""Number formats: wording of their rules, and what a GPU and its software must have, as the table says."""

from collections.abc import Sequence

import pytest

from megatron_nmm.config import RunConfig, needs
from megatron_nmm.config.check import check
from megatron_nmm.config.needs import Hardware, recipe_faults
from megatron_nmm.config.overrides import apply
from megatron_nmm.config.recipes import RECIPES

RUN = RunConfig()
GPU = ("device=gpu", "precision.recipe=mxfp8", "model.width=512", "model.ffn=1536")


def faults(changes: Sequence[str], world_size: int = 1) -> list[str]:
    """The faults of the default run with some changes, as text."""
    return [str(fault) for fault in check(apply(RUN, changes), world_size)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            ["precision.recipe=fp8_delayed", "precision.plain_first=1"],
            "precision.plain_first 1 and precision.plain_last 0 need a recipe that starts anew in each layer, and "
            "fp8_delayed spans them all; use precision.recipe fp8_current, or 0 for both",
        ),
        (
            ["precision.recipe=mxfp8", "precision.plain_first=20", "precision.plain_last=4"],
            "precision.plain_first 20 and precision.plain_last 4 leave none of model.layers 24 to the recipe; let them "
            "add up to 23",
        ),
        (
            ["precision.recipe=fp8_current", "precision.fp8_parameters=true"],
            "precision.fp8_parameters true needs the fp32 weights of a distributed optimizer; use "
            "parallel.distributed_optimizer true, or precision.fp8_parameters false",
        ),
        (
            ["parallel.distributed_optimizer=true", "precision.fp8_parameters=true"],
            "precision.fp8_parameters true needs a recipe of 8 bits, and precision.recipe is plain; use "
            "precision.recipe fp8_current, or precision.fp8_parameters false",
        ),
        (
            [
                "device=cpu",
                "parallel.distributed_optimizer=true",
                "precision.recipe=fp8_current",
                "precision.fp8_parameters=true",
            ],
            "precision.fp8_parameters true is Transformer Engine's, and device is cpu; use precision.fp8_parameters "
            "false",
        ),
        (
            ["parallel.distributed_optimizer=true", "precision.recipe=mxfp8", "precision.fp8_parameters=true"],
            "precision.fp8_parameters true does not go with precision.recipe mxfp8; use precision.recipe fp8_current, "
            "or precision.fp8_parameters false",
        ),
        (
            [*GPU, "data.sequence_length=1000"],
            "precision.recipe mxfp8 takes multiples of 32 tokens on a rank, and data.microbatch 1 x "
            "data.sequence_length 1000 over 1 rank(s) is 1000; use data.sequence_length 992 or 1024, or "
            "precision.emulate true",
        ),
        (
            ["device=gpu", "precision.recipe=fp8_current", "model.ffn=1000"],
            "precision.recipe fp8_current takes model.ffn of multiples of 16, and it is 1000; use model.ffn so that it "
            "is 992 or 1008, or precision.emulate true",
        ),
    ],
)
def test_a_rule_tells_fact_value_and_remedy(changes: Sequence[str], told: str) -> None:
    assert faults(changes) == [told]


def test_a_pipeline_stage_holds_its_plain_layers() -> None:
    changes = ["precision.recipe=mxfp8", "precision.plain_last=8", "parallel.pipeline=4"]
    (told,) = faults(changes, 4)
    assert told.startswith("precision.plain_last 8 is more than the 6 layers of a pipeline stage")


@pytest.mark.parametrize("cure", ["precision.emulate=true", "data.sequence_length=992", "device=cpu"])
def test_the_remedies_cure(cure: str) -> None:
    assert not faults([*GPU, "data.sequence_length=1000", cure])


@pytest.mark.parametrize(
    ("capability", "legal"),
    [
        ((8, 0), []),
        ((8, 9), ["fp8_delayed", "fp8_current"]),
        ((9, 0), ["fp8_delayed", "fp8_current", "fp8_blockwise"]),
        ((10, 0), ["fp8_delayed", "fp8_current", "fp8_blockwise", "mxfp8"]),
        ((12, 0), ["fp8_delayed", "fp8_current", "fp8_blockwise"]),
    ],
)
def test_gpus_have_the_recipes_of_the_table(capability: tuple[int, int], legal: list[str]) -> None:
    found = Hardware((2, 18), capability, (13, 0))
    runs = {name: apply(RUN, [f"precision.recipe={name}"]) for name in RECIPES}
    assert [name for name, run in runs.items() if not list(recipe_faults(run, found))] == legal


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            Hardware(None),
            "precision.recipe mxfp8 needs Transformer Engine 2.1 or newer, which is not installed here; pip install "
            "'transformer-engine[pytorch]' in an environment with the GPU toolkit, or use precision.emulate true (the "
            "same numbers, slowly)",
        ),
        (Hardware((2, 0)), "precision.recipe mxfp8 needs Transformer Engine 2.1 or newer, which is 2.0 here; pip"),
        (
            Hardware((2, 18), (9, 0)),
            "precision.recipe mxfp8 needs a GPU of compute capability 10.0, Blackwell (B200, GB200), or newer and "
            "below 12.0; this one has 9.0; use precision.recipe fp8_delayed or fp8_current or fp8_blockwise, or use",
        ),
        (
            Hardware((2, 18), (10, 0), (12, 6)),
            "precision.recipe mxfp8 needs torch for toolkit 12.8 or newer, not 12.6; install such a torch, or use",
        ),
    ],
)
def test_what_a_machine_lacks_is_named(found: Hardware, told: str) -> None:
    (fault,) = recipe_faults(apply(RUN, ["precision.recipe=mxfp8"]), found)
    assert str(fault).startswith(told)


def test_emulation_needs_nothing() -> None:
    run = apply(RUN, ["precision.recipe=mxfp8", "precision.emulate=true"])
    assert not list(recipe_faults(run, Hardware(None, (7, 0), (11, 0))))


def test_a_check_asks_the_machine_for_a_gpu_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "installed", lambda *names: (2, 18))
    monkeypatch.setattr(needs, "gpu_capability", lambda: (9, 0))
    assert [fault.key for fault in needs.package_faults(apply(RUN, GPU))] == ["precision.recipe"]
    for other in ("device=auto", "precision.emulate=true", "precision.recipe=plain", "precision.recipe=fp8_current"):
        assert not list(needs.package_faults(apply(RUN, [*GPU, other])))


@pytest.mark.parametrize(("told", "lowest"), [("9.0\n8.9\n", (8, 9)), ("", None), ("[N/A]\n", None)])
def test_the_driver_is_asked_for_the_least_gpu(
    told: str, lowest: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{told}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert needs.gpu_capability() == lowest
