"""The config.json of language models whose decoder is this package's: read by the tables of config/hf_language."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from megatron_nmm.checkpoint.convert.limits import Limit
from megatron_nmm.config import DataConfig, RunConfig
from megatron_nmm.config.hf_config import Raw, Refusal
from megatron_nmm.config.hf_language import FAMILIES, LANGUAGE_MODELS

ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "llama": "LlamaForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
}


def _limits(kind: str) -> Sequence[Limit]:
    family = FAMILIES[kind]
    found = [Limit("model.modality_experts", "none"), Limit("model.qk_norm", family.qk_norm)]
    if family.sparse:
        found += [
            Limit("model.sparse.experts", "some", lambda run: bool(run.model.sparse_layers)),
            Limit("model.sparse.score", "softmax"),
            Limit("model.sparse.bias_rate", 0.0),
        ]
    else:
        found.append(Limit("model.sparse.experts", 0, lambda run: not run.model.sparse_layers))
    if kind == "internlm2":
        found.append(Limit("model.head_dim", "width / heads", _square))
    return found


def _square(run: RunConfig) -> bool:
    return run.model.head_width * run.model.heads == run.model.width


LIMITS: Mapping[str, Sequence[Limit]] = {kind: _limits(kind) for kind in FAMILIES}
"""What a model must be to be written as each kind."""


def settings(kind: str, raw: Raw) -> dict[str, Any]:
    """Setting -> value; a model of text sees images by a patch stem that is new."""
    found = {f"model.{setting.key}": setting.theirs(raw) for setting in LANGUAGE_MODELS[kind].settings}
    length = min(DataConfig().sequence_length, raw.get("max_position_embeddings", DataConfig().sequence_length))
    return found | {"data.sequence_length": length}


def refusals(kind: str, raw: Raw) -> Iterator[tuple[Raw, Refusal]]:
    """What in such a folder is refused."""
    return ((raw, refusal) for refusal in LANGUAGE_MODELS[kind].refusals)


def config_json(kind: str, run: RunConfig) -> dict[str, Any]:
    """The fields that follow from ``run``."""
    model, family = run.model, FAMILIES[kind]
    found: dict[str, Any] = {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "vocab_size": model.vocabulary,
        "hidden_size": model.width,
        "intermediate_size": model.ffn_width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_width,
        "max_position_embeddings": max(32_768, run.data.sequence_length),
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_base,
        "tie_word_embeddings": model.tie_embeddings,
        "hidden_act": "silu",
        "initializer_range": model.init_std,
        **dict.fromkeys(family.biases, False),
    }
    if family.sparse:
        found |= {
            "num_experts": model.sparse.experts,
            "num_experts_per_tok": model.sparse.top_k,
            "moe_intermediate_size": model.expert_width,
            "norm_topk_prob": model.sparse.normalise,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(model.sparse.dense_layers),
        }
    return found
