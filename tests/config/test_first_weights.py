"""Where first weights come from, judged by config.json alone: all that differs at once, and remedies that mend it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.config import InitConfig, RunConfig, VisionConfig
from megatron_nmm.config.check import check_files
from megatron_nmm.config.fault import Fault
from megatron_nmm.config.first_weights import first_weights_faults
from megatron_nmm.config.hf_vision import NEARLY
from megatron_nmm.config.overrides import apply

QWEN3_8B: dict[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1_000_000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
INTERNLM2: dict[str, Any] = {
    "model_type": "internlm2",
    "bias": False,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 32768,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "rope_theta": 1_000_000,
    "vocab_size": 92544,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rope_parameters": {"rope_theta": 500_000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "vocab_size": 32000,
}
NAVIL: dict[str, Any] = {
    "model_type": "navil_chat",
    "downsample_ratio": 0.5,
    "llm_config": {"hidden_size": 2048},
    "vision_config": {
        "fullatt_block_indexes": [7, 15, 23],
        "hidden_size": 1472,
        "intermediate_size": 5888,
        "num_attention_heads": 23,
        "num_hidden_layers": 24,
        "patch_size": 16,
        "qk_normalization": False,
    },
}
INTERN_VIT: dict[str, Any] = {
    "model_type": "intern_vit_6b",
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "image_size": 448,
    "initializer_factor": 0.1,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-6,
    "norm_type": "layer_norm",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "qk_normalization": False,
    "qkv_bias": True,
}
"""InternViT-300M-448px."""
WITH_ENCODER = VisionConfig(depth=1, connector="pixel_shuffle")


def _folder(folder: Path, raw: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return folder


def _run(tmp_path: Path, **init: str) -> RunConfig:
    run = RunConfig(folder=str(tmp_path / "run"), init=InitConfig(**init))
    return replace(run, model=replace(run.model, vision=WITH_ENCODER if "vision_model" in init else VisionConfig()))


def _faults(run: RunConfig) -> list[Fault]:
    return list(first_weights_faults(run))


def _mended(run: RunConfig, faults: list[Fault]) -> RunConfig:
    """``run`` after all the remedies."""
    assert all(fault.remedy.startswith("use --set ") for fault in faults)
    return apply(run, [fault.remedy.removeprefix("use --set ") for fault in faults])


@pytest.mark.parametrize(
    ("raw", "keys"),
    [
        (QWEN3_8B, "layers width heads query_groups head_dim ffn rope_base norm_epsilon vocabulary"),
        (INTERNLM2, "width query_groups head_dim ffn rope_base qk_norm vocabulary"),
        (LLAMA, "layers width heads query_groups head_dim ffn rope_base norm_epsilon qk_norm tie_embeddings"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else None,
)
def test_every_value_that_differs_is_listed_with_the_set_that_mends_it(
    raw: dict[str, Any], keys: str, tmp_path: Path
) -> None:
    """P1's smallest model against models of the hub; 24 layers, 16 heads, epsilon 1e-5 are InternLM2's too."""
    run = _run(tmp_path, language_model=str(_folder(tmp_path / "lm", raw)))
    faults = _faults(run)
    assert [fault.key for fault in faults] == [f"model.{key}" for key in keys.split()]
    mended = _mended(run, faults)
    assert _faults(mended) == []
    assert mended.model.head_width == 128 and mended.model.ffn_width == raw["intermediate_size"]
    assert set(faults) <= set(check_files(run)), "--check says so"


def test_a_fault_states_both_values(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "lm", QWEN3_8B)
    told = str(_faults(_run(tmp_path, language_model=str(folder)))[0])
    assert told == f"model.layers is 24, init.language_model {folder} has 36; use --set model.layers=36"


def test_more_vocabulary_rows_than_the_folder_has_are_right(tmp_path: Path) -> None:
    run = _run(tmp_path, language_model=str(_folder(tmp_path / "lm", INTERNLM2)))
    mended = _mended(run, _faults(run))
    assert _faults(replace(mended, model=replace(mended.model, vocabulary=92_672))) == []


def test_sizes_of_qwen3_without_head_dim_are_its_classes_own(tmp_path: Path) -> None:
    raw = {key: value for key, value in QWEN3_8B.items() if key not in ("head_dim", "num_key_value_heads")}
    run = _run(tmp_path, language_model=str(_folder(tmp_path / "lm", {**raw, "hidden_size": 1024})))
    faults = _faults(run)
    found = {fault.key: fault.remedy for fault in faults}
    assert _faults(_mended(run, faults)) == [], "heads wider than width / heads are a setting like any other"
    assert found["model.head_dim"] == "use --set model.head_dim=128"
    assert found["model.query_groups"] == "use --set model.query_groups=32"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rope scaling": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "has RoPE scaling of type 'yarn'"),
    "new rope scaling": ({"rope_parameters": {"rope_type": "llama3"}}, "has RoPE scaling of type 'llama3'"),
    "longer than made for": (
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 512},
        "has RoPE scaling of type 'dynamic' and 512 positions, data.sequence_length is 1024, which is not supported",
    ),
    "sliding window": (
        {"use_sliding_window": True, "sliding_window": 256},
        "attends within 256 tokens, data.sequence_length is 1024",
    ),
    "biases": ({"attention_bias": True}, "has biases (attention_bias), the decoder has none"),
    "activation": ({"hidden_act": "gelu"}, "has the activation 'gelu', the decoder's is silu"),
    "quantised": ({"quantization_config": {"quant_method": "awq"}}, "holds quantised weights ('awq')"),
    "another type": ({"model_type": "mixtral"}, "holds a model of type 'mixtral', which cannot be loaded"),
    "no type": ({"model_type": None}, "holds a model of type None"),
    "no layers": ({"num_hidden_layers": None}, "model.layers is 24, init.language_model"),
    "a strange value": ({"rope_theta": "fast"}, "has a config.json that does not say model.rope_base (ValueError"),
    "a strange group": ({"rope_scaling": [1]}, "has a config.json that makes no sense here (TypeError"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_no_setting_stands_for_is_refused(change: str, tmp_path: Path) -> None:
    changes, told = REFUSED[change]
    run = _run(tmp_path, language_model=str(_folder(tmp_path / "lm", {**QWEN3_8B, **changes})))
    found = [str(fault) for fault in _faults(run)]
    assert any(told in fault for fault in found), found
    if change == "another type":
        assert found[0].endswith("use a folder of model type internlm2, llama, qwen3 or qwen3_moe") and len(found) == 1


def test_biases_of_internlm2_are_on_where_its_file_is_silent(tmp_path: Path) -> None:
    raw = {key: value for key, value in INTERNLM2.items() if key != "bias"}
    run = _run(tmp_path, language_model=str(_folder(tmp_path / "lm", raw)))
    assert any("has biases (bias)" in str(fault) for fault in _faults(run))


def test_harmless_windows_and_scalings_pass(tmp_path: Path) -> None:
    raw = {**QWEN3_8B, "use_sliding_window": True, "sliding_window": 4096}
    run = _run(tmp_path, language_model=str(_folder(tmp_path / "lm", raw)))
    assert _faults(_mended(run, _faults(run))) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "has no readable config.json"), ("{", "has a damaged config.json"), ("[]", "that is no JSON object")],
)
def test_a_folder_that_is_none_is_named(text: str | None, told: str, tmp_path: Path) -> None:
    folder = tmp_path / "lm"
    if text is not None:
        _folder(folder, text)
    (fault,) = _faults(_run(tmp_path, language_model=str(folder)))
    assert fault.key == "init.language_model" and told in fault.fact and "save_pretrained" in fault.remedy


def test_an_encoder_of_navils_form_is_mended_by_the_remedies(tmp_path: Path) -> None:
    """Windows are used only where the layers that see everything are listed."""
    run = _run(tmp_path, vision_model=str(_folder(tmp_path / "vit", NAVIL)))
    faults = _faults(run)
    keys = "depth width heads ffn patch norm_epsilon mlp bias qk_norm final_norm layer_scale window full_layers"
    assert [fault.key for fault in faults] == [f"model.vision.{key}" for key in keys.split()]
    vision = _mended(run, faults).model.vision
    assert _faults(_mended(run, faults)) == []
    assert (vision.depth, vision.width, vision.heads, vision.ffn) == (24, 1472, 23, 5888)
    assert (vision.window, vision.full_layers, vision.layer_scale) == (8, (7, 15, 23), 0.1)
    alone = {**NAVIL["vision_config"], "model_type": "navil_vit", "fullatt_block_indexes": None}
    run = _run(tmp_path, vision_model=str(_folder(tmp_path / "tower", alone)))
    assert _mended(run, _faults(run)).model.vision == replace(vision, window=0, full_layers=())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"qk_normalization": True}, "qk_normalization True where False is supported"),
        (
            {"qkv_bias": True, "norm_type": "layer_norm"},
            "qkv_bias True where False is supported, norm_type 'layer_norm'",
        ),
        ({"hidden_act": "silu"}, "hidden_act 'silu' where 'gelu' is supported"),
    ],
)
def test_an_encoder_of_another_form_is_refused(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    raw = {**NAVIL, "vision_config": {**NAVIL["vision_config"], **change}}
    run = _run(tmp_path, vision_model=str(_folder(tmp_path / "vit", raw)))
    assert any(told in str(fault) for fault in _faults(run))


def test_an_encoder_of_intern_vits_form_is_mended_by_the_remedies(tmp_path: Path) -> None:
    run = _run(tmp_path, vision_model=str(_folder(tmp_path / "vit", INTERN_VIT)))
    vision = _mended(run, _faults(run)).model.vision
    assert _faults(_mended(run, _faults(run))) == []
    assert (vision.depth, vision.width, vision.heads, vision.ffn, vision.patch) == (24, 1024, 16, 4096, 14)
    assert (vision.norm, vision.qkv_bias, vision.bias, vision.qk_norm) == ("layer", True, True, False)
    assert (vision.positions, vision.table_side, vision.class_token, vision.final_norm) == ("table", 32, True, False)
    whole = {"model_type": "internvl_chat", "vision_config": INTERN_VIT, "llm_config": {"hidden_size": 896}}
    run = _run(tmp_path, vision_model=str(_folder(tmp_path / "chat", whole)))
    assert _mended(run, _faults(run)).model.vision == vision


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"qk_normalization": True},
            "has an encoder that norms queries and keys of all heads together, as InternViT-6B",
        ),
        ({"hidden_act": "quick_gelu"}, "has an encoder with hidden_act 'quick_gelu' where 'gelu' is supported"),
        ({"norm_type": "batch_norm"}, "has a config.json that does not say model.vision.norm (KeyError"),
        ({"image_size": None}, "has a config.json that does not say model.vision.table_side (TypeError"),
        ({"select_layer": -4}, "reads layer -4 of its encoder (select_layer), this package's the last one"),
    ],
)
def test_another_intern_vit_is_refused(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    whole = {"model_type": "internvl_chat", "vision_config": {**INTERN_VIT, **change}, **change}
    run = _run(tmp_path, vision_model=str(_folder(tmp_path / "chat", whole)))
    assert any(told in str(fault) for fault in _faults(run)), list(map(str, _faults(run)))


@pytest.mark.parametrize("kind", [*NEARLY, "clip_vision_model", "convnext"])
def test_an_encoder_that_only_comes_close_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    run = _run(tmp_path, vision_model=str(_folder(tmp_path / "vit", {"model_type": kind})))
    (fault,) = _faults(run)
    assert f"holds a model of type {kind!r}, which cannot be loaded" in fault.fact
    assert (": it" in fault.fact) == (kind != "convnext")
    assert fault.remedy == "use a folder of model type intern_vit_6b, internvl_chat, navil_chat or navil_vit"


def test_a_model_without_an_encoder_has_no_place_for_one(tmp_path: Path) -> None:
    run = _run(tmp_path, vision_model=str(_folder(tmp_path / "vit", NAVIL)))
    run = replace(run, model=replace(run.model, vision=VisionConfig()))
    assert any("this model has none (model.vision.depth 0)" in str(fault) for fault in _faults(run))


def test_two_sources_of_one_decoder_are_one_too_many(tmp_path: Path) -> None:
    folder = str(_folder(tmp_path / "lm", LLAMA))
    (tmp_path / "lm/checkpoints/step-00000001").mkdir(parents=True)
    run = _run(tmp_path, language_model=folder, checkpoint=folder)
    run = _mended(run, [fault for fault in _faults(run) if fault.key.startswith("model.")])
    (fault,) = _faults(run)
    assert "both fill the decoder" in fault.fact
    assert _faults(apply(run, ["init.checkpoint="])) == []


def test_a_checkpoint_must_be_a_folder_unless_the_run_goes_on_by_itself(tmp_path: Path) -> None:
    run = _run(tmp_path, checkpoint=str(tmp_path / "gone"))
    (fault,) = _faults(run)
    assert fault.key == "init.checkpoint" and "is not a folder" in fault.fact
    (tmp_path / "gone").mkdir()
    (fault,) = _faults(run)
    assert fault.fact == f"init.checkpoint {tmp_path / 'gone'} holds no checkpoint"
    (tmp_path / "run/checkpoints/step-00000002").mkdir(parents=True)
    assert _faults(run) == []
    for place in ("run", "run/checkpoints/step-00000002"):
        other = _run(tmp_path, checkpoint=str(tmp_path / place))
        assert _faults(replace(other, folder=str(tmp_path / "next"))) == []


def test_no_source_no_fault() -> None:
    assert _faults(RunConfig()) == []


@pytest.mark.parametrize(
    ("place", "steps", "told"),
    [
        ("trunk", 10, "is no checkpoint's folder; name one of a run's checkpoints/step-... folders"),
        ("trunk/checkpoints/step-00000008", 10, "is no checkpoint's folder; name one"),
        ("trunk/checkpoints/step-00000006", 6, "whose steps is 6; use an earlier checkpoint, or steps above 6"),
        ("trunk/checkpoints/step-00000006", 7, ""),
    ],
)
def test_a_branch_names_a_checkpoint_before_its_end(place: str, steps: int, told: str, tmp_path: Path) -> None:
    (tmp_path / "trunk/checkpoints/step-00000006").mkdir(parents=True)
    run = replace(_run(tmp_path, continue_from=str(tmp_path / place)), steps=steps)
    assert [told in str(fault) for fault in _faults(run)] == ([True] if told else [])


def test_a_branch_has_no_other_first_weights(tmp_path: Path) -> None:
    place = tmp_path / "trunk/checkpoints/step-00000006"
    place.mkdir(parents=True)
    (fault,) = _faults(_run(tmp_path, continue_from=str(place), checkpoint=str(tmp_path / "trunk")))
    assert fault.key == "init.checkpoint"
    assert fault.remedy == "keep one of them: --set init.continue_from= or --set init.checkpoint="
