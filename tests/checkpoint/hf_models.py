"""Tiny language models in Hugging Face folders, and their logits by code that is not ours."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from megatron_nmm.config import InitConfig, ModelConfig, RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.verify import layouts, synthetic

VOCABULARY = 100
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
}
BASE = 5e4


def run_of(kind: str, folder: Path, **changes: Any) -> RunConfig:
    """The run of the decoder that ``save`` writes, 28 vocabulary rows more; ``changes`` are fields of its model."""
    run = layouts.toy(RunConfig())
    model = ModelConfig(
        layers=2,
        width=32,
        heads=4,
        query_groups=2,
        head_dim=16 if kind == "qwen3" else None,
        ffn=48,
        vocabulary=128,
        qk_norm=kind == "qwen3",
        norm_epsilon=1e-6,
        rope_base=BASE,
        image_mask="causal",
        vision=run.model.vision,
    )
    return replace(
        run, folder=str(folder / "run"), model=replace(model, **changes), init=InitConfig(language_model=str(folder))
    )


def save(kind: str, folder: Path, dtype: str = "float32", max_shard_size: str = "1GB", **changes: Any) -> Path:
    """Write config.json and weights of a random model of ``kind``; ``changes`` are values of config.json."""
    if kind == "internlm2":
        return _save_internlm2(folder, **changes)
    model = _transformers(kind, **changes).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def _transformers(kind: str, **changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}[kind]
    rope = {"rope_type": "default", "rope_theta": BASE}
    extra = {"head_dim": 16} if kind == "qwen3" else {}
    torch.manual_seed(7)
    made = model(config(**{**SHAPE, "rope_parameters": rope, "tie_word_embeddings": False, **extra, **changes}))
    with torch.no_grad():
        for parameter in made.parameters():
            # Larger than usual, and norms off their ones, so that every weight shows in the logits.
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def _save_internlm2(folder: Path, **changes: Any) -> Path:
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(*shape, generator=generator) + (1.0 if len(shape) == 1 else 0.0)

    width, ffn = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    tensors = {
        "model.tok_embeddings.weight": draw(VOCABULARY, width),
        "model.norm.weight": draw(width),
        "output.weight": draw(VOCABULARY, width),
    }
    for layer in range(SHAPE["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        tensors |= {
            f"{name}.attention_norm.weight": draw(width),
            f"{name}.ffn_norm.weight": draw(width),
            f"{name}.attention.wqkv.weight": draw(8 * 8, width),
            f"{name}.attention.wo.weight": draw(width, width),
            f"{name}.feed_forward.w1.weight": draw(ffn, width),
            f"{name}.feed_forward.w3.weight": draw(ffn, width),
            f"{name}.feed_forward.w2.weight": draw(width, ffn),
        }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    scaling = {"type": "dynamic", "factor": 2.0}
    raw = {"model_type": "internlm2", **SHAPE, "rope_theta": BASE, "rope_scaling": scaling, "bias": False, **changes}
    (folder / "config.json").write_text(json.dumps({**raw, "hidden_act": "silu", "tie_word_embeddings": False}))
    return folder


def reference(kind: str, folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Tokens [S] of one document -> scores [S, VOCABULARY], by transformers' model or the plain InternLM2 below."""
    if kind == "internlm2":
        return partial(_internlm2, load_file(folder / "model.safetensors"))
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def scores(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model(input_ids=tokens[None]).logits[0]
        return found

    return scores


def _internlm2(weights: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """InternLM2 as its released code describes it, without a cache: grouped queries, half-split RoPE, SwiGLU."""
    groups, heads, width = 2, 4, 8

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weights[name]

    angles = torch.outer(torch.arange(len(tokens)), BASE ** (-torch.arange(0, width, 2) / width))
    cos, sin = (turn.repeat(1, 2)[:, None] for turn in (angles.cos(), angles.sin()))

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    x = weights["model.tok_embeddings.weight"][tokens]
    for layer in range(SHAPE["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        packed = norm(x, f"{name}.attention_norm.weight") @ weights[f"{name}.attention.wqkv.weight"].T
        packed = packed.reshape(len(tokens), groups, heads // groups + 2, width)
        query, key, value = packed[:, :, :-2].flatten(1, 2), packed[:, :, -2], packed[:, :, -1]
        key, value = (part.repeat_interleave(heads // groups, 1) for part in (turned(key), value))
        scores = torch.einsum("qhd,khd->hqk", turned(query), key) / width**0.5
        scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf).softmax(-1)
        x = x + torch.einsum("hqk,khd->qhd", scores, value).flatten(1) @ weights[f"{name}.attention.wo.weight"].T
        hidden = norm(x, f"{name}.ffn_norm.weight")
        gate, up = (hidden @ weights[f"{name}.feed_forward.{part}.weight"].T for part in ("w1", "w3"))
        x = x + (torch.nn.functional.silu(gate) * up) @ weights[f"{name}.feed_forward.w2.weight"].T
    return norm(x, "model.norm.weight") @ weights["output.weight"].T


def text_batch(run: RunConfig) -> Batch:
    """Text that the folder's vocabulary knows."""
    small = replace(run, model=replace(run.model, vocabulary=VOCABULARY))
    return synthetic.batches(small, 1, seed=3, images=False)[0]


def documents(batch: Batch) -> list[tuple[int, slice]]:
    """(row, place) of every document."""
    return [
        (row, slice(start, end))
        for row, starts in enumerate(batch.document_starts.tolist())
        for start, end in pairwise(starts)
        if end > start
    ]
