"""NaViL as its released code describes it, in plain torch over the tensors of one of its folders: scores of a document.

Image tokens and the token that begins an image take the visual experts; rows of the special table stand in for the
tokens that lay out images. In the InternLM2 variant image tokens pass the text's output projection before their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

Weights = Mapping[str, torch.Tensor]


def scores(
    weights: Weights,
    config: Mapping[str, Any],
    tokens: torch.Tensor,
    special: Mapping[int, int],
    image: int,
    begin: int,
    views: Sequence[tuple[torch.Tensor, int, int]],
) -> torch.Tensor:
    """[S] ids of one document -> [S, V]. ``special``: id -> row of the special table; ``image``, ``begin``: ids of the
    placeholder and of what begins an image; ``views``: (patches in merge groups [P, C p p], rows, columns)."""
    text, llm = "language_model.model.", config["llm_config"]
    qwen = llm["architectures"][0].startswith("Qwen3")
    x = weights[f"{text}{'embed_tokens' if qwen else 'tok_embeddings'}.weight"][tokens].clone()
    for token, row in special.items():
        x[tokens == token] = weights["special_token_embedding.weight"][row]
    if views:
        x[tokens == image] = torch.cat([_view(weights, config["vision_config"], *view) for view in views])
    visual = (tokens == image) | (tokens == begin)
    layer = _qwen_layer if qwen else _internlm_layer
    for number in range(llm["num_hidden_layers"]):
        x = layer(weights, f"{text}layers.{number}.", llm, x, visual)
    head = "language_model.lm_head.weight" if qwen else "language_model.output.weight"
    return _norm(x, weights[f"{text}norm.weight"], llm["rms_norm_eps"]) @ weights[head].T


def _norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def _either(text: torch.Tensor, image: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    return torch.where(visual.reshape(-1, *[1] * (text.dim() - 1)), image, text)


def _turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    cos, sin = (turn.repeat(1, 2)[:, None] for turn in (angles.cos(), angles.sin()))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, base: float) -> torch.Tensor:
    length, heads, width = query.shape
    angles = torch.outer(torch.arange(length), base ** (-torch.arange(0, width, 2) / width))
    query, key = _turned(query, angles), _turned(key, angles)
    key, value = (part.repeat_interleave(heads // part.shape[1], 1) for part in (key, value))
    share = torch.einsum("qhd,khd->hqk", query, key) / width**0.5
    share = share.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", share, value).flatten(1)


def _qwen_layer(
    weights: Weights, name: str, llm: Mapping[str, Any], x: torch.Tensor, visual: torch.Tensor
) -> torch.Tensor:
    epsilon, width = llm["rms_norm_eps"], llm["head_dim"]

    def projected(part: str, hidden: torch.Tensor) -> torch.Tensor:
        both = []
        for suffix in ("", "_ve"):
            heads = (hidden @ weights[f"{name}self_attn.{part}_proj{suffix}.weight"].T).unflatten(-1, (-1, width))
            norm = weights.get(f"{name}self_attn.{part}_norm{suffix}.weight")
            both.append(heads if norm is None else _norm(heads, norm, epsilon))
        return _either(*both, visual)

    hidden = _norm(x, weights[f"{name}input_layernorm.weight"], epsilon)
    mixed = _attend(*(projected(part, hidden) for part in "qkv"), llm["rope_theta"])
    out = [mixed @ weights[f"{name}self_attn.o_proj{suffix}.weight"].T for suffix in ("", "_ve")]
    x = x + _either(*out, visual)
    hidden = _norm(x, weights[f"{name}post_attention_layernorm.weight"], epsilon)
    parts = ("gate_proj", "up_proj", "down_proj")
    return x + _either(*(_mlp(weights, f"{name}mlp{suffix}.", parts, hidden) for suffix in ("", "_ve")), visual)


def _internlm_layer(
    weights: Weights, name: str, llm: Mapping[str, Any], x: torch.Tensor, visual: torch.Tensor
) -> torch.Tensor:
    groups, heads = llm["num_key_value_heads"], llm["num_attention_heads"]
    hidden = _norm(x, weights[f"{name}attention_norm.weight"], llm["rms_norm_eps"])
    packed = _either(*(hidden @ weights[f"{name}attention.wqkv{suffix}.weight"].T for suffix in ("", "_ve")), visual)
    packed = packed.reshape(len(x), groups, heads // groups + 2, -1)
    mixed = _attend(packed[:, :, :-2].flatten(1, 2), packed[:, :, -2], packed[:, :, -1], llm["rope_theta"])
    out = mixed @ weights[f"{name}attention.wo.weight"].T
    x = x + _either(out, out @ weights[f"{name}attention.wo_ve.weight"].T, visual)
    hidden = _norm(x, weights[f"{name}ffn_norm.weight"], llm["rms_norm_eps"])
    parts = ("w1", "w3", "w2")
    return x + _either(
        *(_mlp(weights, f"{name}feed_forward{suffix}.", parts, hidden) for suffix in ("", "_ve")), visual
    )


def _mlp(weights: Weights, name: str, parts: tuple[str, str, str], x: torch.Tensor) -> torch.Tensor:
    gate, up, down = (weights[f"{name}{part}.weight"] for part in parts)
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def _view(weights: Weights, vision: Mapping[str, Any], patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    heads, patch, epsilon = vision["num_attention_heads"], vision["patch_size"], vision["layer_norm_eps"]
    head = vision["hidden_size"] // heads
    place = torch.arange(rows * columns).reshape(rows // 2, 2, columns // 2, 2).transpose(1, 2).flatten()
    frequency = 10_000.0 ** (-torch.arange(0, head // 2, 2) / (head // 2))
    angles = torch.cat([torch.outer(place // columns, frequency), torch.outer(place % columns, frequency)], 1)

    def affine(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    stem = "vision_model.embeddings.patch_embedding"
    pixels = patches.reshape(len(patches), -1, patch, patch)
    x = torch.nn.functional.conv2d(pixels, weights[f"{stem}.weight"], weights[f"{stem}.bias"]).flatten(1)
    for layer in range(vision["num_hidden_layers"]):
        name = f"vision_model.encoder.layers.{layer}"
        packed = _norm(x, weights[f"{name}.norm1.weight"], epsilon) @ weights[f"{name}.attn.qkv.weight"].T
        query, key, value = packed.reshape(-1, 3, heads, head).unbind(1)
        share = torch.einsum("qhd,khd->hqk", _turned(query, angles), _turned(key, angles)) / head**0.5
        mixed = torch.einsum("hqk,khd->qhd", share.softmax(-1), value).flatten(1)
        x = x + affine(mixed, f"{name}.attn.proj") * weights[f"{name}.ls1"]
        hidden = affine(_norm(x, weights[f"{name}.norm2.weight"], epsilon), f"{name}.mlp.fc1")
        x = x + affine(torch.nn.functional.gelu(hidden), f"{name}.mlp.fc2") * weights[f"{name}.ls2"]
    merged = x.reshape(len(x) // 4, -1)
    merged = torch.nn.functional.layer_norm(merged, merged.shape[1:], weights["mlp1.0.weight"], weights["mlp1.0.bias"])
    return affine(torch.nn.functional.gelu(affine(merged, "mlp1.1")), "mlp1.3")
