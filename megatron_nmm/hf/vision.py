"""The vision encoder: a bidirectional transformer over the patches of each view, and a connector to the decoder.

Shapes: P patches of all views in a row, w encoder width, N heads, D head width, H decoder width, s side of the square
of patches that becomes one token.
"""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import Rotation, SwiGLU, attend, rotate, rotation
from .configuration_native_multimodal import NativeMultimodalConfig, NativeMultimodalVisionConfig
from .views import Grid, Places, places, windows


class VisionAttention(nn.Module):
    """Attention within each piece of the patches: a view, or a window of one."""

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: NativeMultimodalVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.head_dim = config.num_attention_heads, width // config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.proj = nn.Linear(width, width, bias=config.bias)
        norm = config.qk_norm
        self.q_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps) if norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps) if norm else nn.Identity()

    def forward(self, x: torch.Tensor, turn: Rotation | None, pieces: list[int], implementation: str) -> torch.Tensor:
        """[P, w] -> [P, w]; ``pieces`` are the lengths of what attends among itself."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim))[None].unbind(2)
        query, key = (part.transpose(1, 2) for part in (self.q_norm(query), self.k_norm(key)))
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        cut = [part.split(pieces, 2) for part in (query, key, value.transpose(1, 2))]
        found = [attend(self, implementation, q, k, v, None)[0] for q, k, v in zip(*cut, strict=True)]
        out: torch.Tensor = self.proj(torch.cat(found, 1)[0])
        return out


class Gelu(nn.Module):
    """[..., w] -> [..., w] by two matrices with GELU between them."""

    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any number of rows."""
        out: torch.Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return out


class VisionLayer(GradientCheckpointingLayer):
    """Pre-norm attention and MLP; each branch may have a learnt factor per channel (LayerScale)."""

    def __init__(self, config: NativeMultimodalVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1 = _norm(config)
        self.attn = VisionAttention(config)
        self.norm2 = _norm(config)
        mlp = SwiGLU if config.mlp == "swiglu" else Gelu
        self.mlp = mlp(width, config.intermediate_size, config.bias)
        self.layer_scale = config.layer_scale
        if self.layer_scale:
            self.ls1 = nn.Parameter(torch.full((width,), self.layer_scale))
            self.ls2 = nn.Parameter(torch.full((width,), self.layer_scale))

    def forward(self, x: torch.Tensor, turn: Rotation | None, pieces: list[int], implementation: str) -> torch.Tensor:
        """[P, w] -> [P, w]."""
        branch = self.attn(self.norm1(x), turn, pieces, implementation)
        x = x + (branch * self.ls1 if self.layer_scale else branch)
        branch = self.mlp(self.norm2(x))
        x = x + (branch * self.ls2 if self.layer_scale else branch)
        return x


def _norm(config: NativeMultimodalVisionConfig) -> nn.Module:
    """A norm of the residual stream."""
    norm = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return norm(config.hidden_size, eps=config.rms_norm_eps)


class VisionEncoder(nn.Module):
    """Patches of all views -> their rows, in the same order."""

    def __init__(self, config: NativeMultimodalVisionConfig, patch_values: int) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Linear(patch_values, config.hidden_size)
        if config.positions == "table":
            self.position_table = nn.Parameter(
                torch.zeros(config.class_token + config.table_side**2, config.hidden_size)
            )
        if config.class_token:
            self.class_token = nn.Parameter(torch.zeros(config.hidden_size))
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.depth))
        self.norm = _norm(config) if config.final_norm else nn.Identity()

    def forward(self, patches: torch.Tensor, grids: list[Grid], implementation: str) -> torch.Tensor:
        """[P, C * p * p] in merge groups, and rows and columns of each view -> [P, w].

        Patches of a window stand together inside, so that windows are pieces like views.
        """
        config = self.config
        shuffle, window = config.merge_size, config.window_size
        found = [windows(rows, columns, shuffle, window) for rows, columns in grids]
        views = [rows * columns for rows, columns in grids]
        order = _end_to_end([one.order for one in found], views).to(patches.device)
        where = [places(rows, columns, shuffle) for rows, columns in grids]
        turn = self._rotation(where, order) if config.positions == "rotary" else None
        small = [length for one in found for length in one.lengths]
        x = self.patch_embed(patches.to(self.patch_embed.weight.dtype))
        if config.positions == "table":
            x = x + torch.cat([self._of_places(grid, one) for grid, one in zip(grids, where, strict=True)])
        x = x[order]
        if config.class_token:
            first = (self.class_token + self.position_table[0])[None]
            x = torch.cat([part for view in x.split(views) for part in (view, first)])
            views = [length + 1 for length in views]
        for number, layer in enumerate(self.layers):
            whole = not window or number in config.full_attention_layers
            x = layer(x, turn, views if whole else small, implementation)
        if config.class_token:
            x = torch.cat([view[:-1] for view in x.split(views)])
        rows: torch.Tensor = self.norm(x)[order.argsort()]
        return rows

    def _of_places(self, grid: Grid, where: Places) -> torch.Tensor:
        """[P, w] the vectors of one view's places."""
        config, table = self.config, self.position_table
        square = table[int(config.class_token) :].float().unflatten(0, (config.table_side, config.table_side))
        stretched = nn.functional.interpolate(square.permute(2, 0, 1)[None], size=grid, mode="bicubic")[0]
        place = (where.rows * grid[1] + where.columns).to(table.device)
        return stretched.flatten(1).T[place].to(table.dtype)

    def _rotation(self, where: list[Places], order: torch.Tensor) -> Rotation:
        """Two-dimensional RoPE: half of a head's angles turn with the row, half with the column (NaViL's code)."""
        quarter = self.config.hidden_size // self.config.num_attention_heads // 4
        frequency = self.config.rope_theta ** (
            -torch.arange(quarter, dtype=torch.float32, device=order.device) / quarter
        )
        place = torch.cat([torch.stack([one.rows, one.columns], 1) for one in where]).to(order.device)[order]
        angle = (place.float()[:, :, None] * frequency).flatten(1)
        return rotation(angle[None], self.patch_embed.weight.dtype)


def _end_to_end(orders: list[torch.Tensor], lengths: list[int]) -> torch.Tensor:
    """[P] the orders of views as one order of all patches."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    return torch.cat([order + start for order, start in zip(orders, starts, strict=False)])


class Connector(nn.Module):
    """[P, w] -> [P / s^2, H]: one matrix, or two with GELU between them, perhaps of s x s patches side by side."""

    def __init__(self, config: NativeMultimodalConfig) -> None:
        super().__init__()
        vision: NativeMultimodalVisionConfig = config.vision_config
        self.merged, self.kind = vision.hidden_size * vision.merge_size**2, vision.connector
        if self.kind == "linear":
            self.linear = nn.Linear(self.merged, config.hidden_size)
            return
        if self.kind == "pixel_shuffle":
            self.norm = nn.LayerNorm(self.merged)
        self.fc1 = nn.Linear(self.merged, config.hidden_size)
        self.fc2 = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``rows`` come in whole merge groups, row by row inside each."""
        rows = rows.reshape(-1, self.merged)
        if self.kind == "linear":
            out: torch.Tensor = self.linear(rows)
            return out
        if self.kind == "pixel_shuffle":
            rows = self.norm(rows)
        out = self.fc2(nn.functional.gelu(self.fc1(rows)))
        return out
