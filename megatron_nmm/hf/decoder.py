"""One decoder layer: causal attention with grouped keys, then an MLP, sparse experts, or one of each per modality.

The image expert's modules stand beside the text expert's and end in ``_ve``. Shapes: B rows, S tokens, H width, N
heads, G key/value heads, D head width.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import Modalities, Rotation, SwiGLU, attend, rotate
from .configuration_native_multimodal import NativeMultimodalConfig
from .experts import SparseMLP

VISUAL = "_ve"
"""Ends the names of an image expert's modules."""


class DecoderAttention(nn.Module):
    """Self-attention; text and image rows may be projected apart, and attend together (NaViL section 3)."""

    is_causal = True

    def __init__(self, config: NativeMultimodalConfig, number: int) -> None:
        super().__init__()
        self.config, self.number, self.head_dim = config, number, config.head_dim
        self.groups = config.num_key_value_heads
        self.num_key_value_groups = config.num_attention_heads // self.groups
        self.experts = config.modality_experts == "all"
        for end in ("", VISUAL) if self.experts else ("",):
            self._add_projections(config, end)

    def _add_projections(self, config: NativeMultimodalConfig, end: str) -> None:
        """The matrices and norms of one modality, their names ending in ``end``."""
        width, queries, keys = (
            config.hidden_size,
            config.num_attention_heads * self.head_dim,
            self.groups * self.head_dim,
        )
        self.add_module(f"q_proj{end}", nn.Linear(width, queries, bias=False))
        self.add_module(f"k_proj{end}", nn.Linear(width, keys, bias=False))
        self.add_module(f"v_proj{end}", nn.Linear(width, keys, bias=False))
        self.add_module(f"o_proj{end}", nn.Linear(queries, width, bias=False))
        for norm in ("q_norm", "k_norm"):
            made = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity()
            self.add_module(norm + end, made)

    def forward(
        self, x: torch.Tensor, turn: Rotation, mask: Any, modalities: Modalities | None, cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[B, S, H] -> [B, S, H] and the weights, if the implementation tells them."""
        project, back = self._project, self._back
        together = self._by_modality(x, modalities, project).transpose(1, 2)
        heads = together.shape[1] - 2 * self.groups
        query, key, value = together.split([heads, self.groups, self.groups], 1)
        query, key = rotate(query, turn), rotate(key, turn)
        if cache is not None:
            key, value = cache.update(key, value, self.number)
        out, weights = attend(self, self.config._attn_implementation, query, key, value, mask)
        return self._by_modality(out, modalities, back), weights

    def _by_modality(self, x: torch.Tensor, modalities: Modalities | None, change: Any) -> torch.Tensor:
        """``change`` takes rows and the end of the names of the modules that they meet."""
        if modalities is None or not self.experts:
            changed: torch.Tensor = change(x, "")
            return changed
        return modalities.map(x, partial(change, end=""), partial(change, end=VISUAL))

    def _project(self, x: torch.Tensor, end: str) -> torch.Tensor:
        """[..., H] -> [..., N + 2 G, D]: queries, keys, values."""
        query, key, value = (
            self.get_submodule(f"{part}_proj{end}")(x).unflatten(-1, (-1, self.head_dim)) for part in "qkv"
        )
        query, key = self.get_submodule(f"q_norm{end}")(query), self.get_submodule(f"k_norm{end}")(key)
        return torch.cat([query, key, value], -2)

    def _back(self, x: torch.Tensor, end: str) -> torch.Tensor:
        """[..., N * D] -> [..., H]."""
        out: torch.Tensor = self.get_submodule(f"o_proj{end}")(x)
        return out


class DecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and MLP."""

    def __init__(self, config: NativeMultimodalConfig, number: int) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.input_layernorm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.self_attn = DecoderAttention(config, number)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        sparse = number in config.sparse_layers
        self.mlp = SparseMLP(config) if sparse else SwiGLU(width, hidden)
        self.experts = config.modality_experts != "none" and not sparse
        if self.experts:
            self.mlp_ve = SwiGLU(width, hidden)

    def forward(
        self, x: torch.Tensor, turn: Rotation, mask: Any, modalities: Modalities | None, cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[B, S, H] -> [B, S, H] and the weights of attention."""
        branch, weights = self.self_attn(self.input_layernorm(x), turn, mask, modalities, cache)
        x = x + branch
        branch = self.post_attention_layernorm(x)
        if self.experts and modalities is not None:
            return x + modalities.map(branch, self.mlp, self.mlp_ve), weights
        return x + self.mlp(branch), weights
