"""What decoder and vision encoder share: rotation of heads, plain attention, SwiGLU, and rows parted by modality.

Shapes: B rows, S tokens, H width, N heads, D head width, K keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines [B, S, D / 2]."""
Change = Callable[[torch.Tensor], torch.Tensor]
"""From the rows of one modality to what becomes of them."""


@dataclass(frozen=True)
class Modalities:
    """The B * S rows in modality order: all text, then all visual ones. None stands for a batch of text alone."""

    text: torch.Tensor
    """[n] flat positions, ascending."""
    visual: torch.Tensor
    """[B * S - n]"""
    home: torch.Tensor
    """[B * S] place of each flat position in modality order."""

    @staticmethod
    def of(visual_BS: torch.Tensor) -> "Modalities | None":
        """The routing of a mask that is True where a token meets the visual experts."""
        flat = visual_BS.flatten()
        if not flat.any():
            return None
        text, visual = (~flat).nonzero().squeeze(1), flat.nonzero().squeeze(1)
        return Modalities(text, visual, torch.cat([text, visual]).argsort())

    def map(self, x: torch.Tensor, text: Change, visual: Change) -> torch.Tensor:
        """[B, S, ...] -> [B, S, ...]: each row changed by its modality's function."""
        flat = x.flatten(0, 1)
        out = torch.cat([text(flat[self.text]), visual(flat[self.visual])])
        back: torch.Tensor = out[self.home].unflatten(0, x.shape[:2])
        return back


def rotation(angle: torch.Tensor, dtype: torch.dtype) -> Rotation:
    """Of fp32 angles [B, S, D / 2]."""
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x_BNSD: torch.Tensor, by: Rotation) -> torch.Tensor:
    """Turn each head's pair (i, i + D / 2) by its position's angle (RoFormer, the half-split layout of Llama)."""
    cos, sin = (part.unsqueeze(1) for part in by)
    first, second = x_BNSD.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def attend(
    module: nn.Module, implementation: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """[B, N, S, D], [B, G, K, D] twice -> [B, S, N * D] and, where the implementation tells, weights [B, N, S, K].

    ``module`` carries what transformers' attention functions read: ``is_causal``, ``num_key_value_groups``.
    """
    function = eager_attention if implementation == "eager" else ALL_ATTENTION_FUNCTIONS[implementation]
    out, weights = function(module, query, key, value, mask, dropout=0.0, scaling=query.shape[-1] ** -0.5)
    return out.flatten(2), weights


def eager_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; ``attention_mask`` [B, 1, S, K] is added to the scores."""
    key, value = (part.repeat_interleave(module.num_key_value_groups, 1) for part in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class SwiGLU(nn.Module):
    """[..., H] -> [..., H]: silu(gate) * up, then down."""

    def __init__(self, width: int, hidden: int, bias: bool = False) -> None:
        """``hidden`` is the width between the matrices."""
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=bias)
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any number of rows, also none."""
        out: torch.Tensor = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out
