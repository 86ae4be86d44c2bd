"""The vision encoder written out in plain PyTorch, view by view and patch by patch in fp64.

Weights come by the names of the encoder's parameters. Shapes: P patches of one view, w encoder width, H decoder width.
"""

import torch
from torch.nn.functional import gelu, interpolate, layer_norm, rms_norm, silu

from megatron_nmm.config.schema_model import VisionConfig

State = dict[str, torch.Tensor]


def encode(state: State, vision: VisionConfig, patches: torch.Tensor, grids: list[tuple[int, int]]) -> torch.Tensor:
    """[N tokens of all views, H]"""
    tokens = []
    for rows, columns in grids:
        view, patches = patches[: rows * columns], patches[rows * columns :]
        tokens.append(_connect(state, vision, _view(state, vision, view, rows, columns)))
    return torch.cat(tokens)


def places(rows: int, columns: int, shuffle: int) -> list[tuple[int, int]]:
    """(row, column) of each patch: squares of shuffle x shuffle row by row, and row by row inside a square."""
    return [
        (down + i, across + j)
        for down in range(0, rows, shuffle)
        for across in range(0, columns, shuffle)
        for i in range(shuffle)
        for j in range(shuffle)
    ]


def _view(state: State, vision: VisionConfig, patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    x = patches.double() @ state["patch_stem.linear.weight"].T + state["patch_stem.linear.bias"]
    where = places(rows, columns, vision.shuffle)
    if vision.positions == "table":
        x = x + _placed(state, vision, rows, columns, where)
    if vision.class_token:
        x = torch.cat([x, (state["positions.class_token"] + state["positions.table"][0])[None]])
    everything = torch.ones(len(x), len(x), dtype=torch.bool)
    squares = [(r // vision.window, c // vision.window) for r, c in where] if vision.window else []
    same_square = torch.tensor([[a == b for b in squares] for a in squares])
    for layer in range(vision.depth):
        name = f"block.layers.{layer}."
        mask = same_square if vision.window and layer not in vision.full_layers else everything
        normed = _norm(state, vision, name + "input_layernorm", x)
        x = x + _scaled(state, name + "self_attn_bda.weight", _attend(state, vision, name, normed, where, mask))
        normed = _norm(state, vision, name + "pre_mlp_layernorm", x)
        x = x + _scaled(state, name + "mlp_bda.weight", _mlp(state, vision, name + "mlp.", normed))
    x = x[: len(where)]
    return _norm(state, vision, "block.final_layernorm", x) if vision.final_norm else x


def _placed(state: State, vision: VisionConfig, rows: int, columns: int, where: list[tuple[int, int]]) -> torch.Tensor:
    side, first = vision.table_side, int(vision.class_token)
    table = state["positions.table"][first:].reshape(side, side, -1).permute(2, 0, 1)[None]
    stretched = interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)[0]
    return torch.stack([stretched[:, row, column] for row, column in where])


def _attend(
    state: State, vision: VisionConfig, name: str, x: torch.Tensor, where: list[tuple[int, int]], mask: torch.Tensor
) -> torch.Tensor:
    name += "self_attention."
    heads = []
    width = vision.head_width
    projected = x @ state[name + "linear_qkv.weight"].T + state.get(name + "linear_qkv.bias", 0)
    for head in range(vision.heads):
        q, k, v = projected[:, 3 * head * width : 3 * (head + 1) * width].split(width, 1)
        if vision.qk_norm:
            q = _rms(state, vision, name + "q_layernorm", q)
            k = _rms(state, vision, name + "k_layernorm", k)
        if vision.positions == "rotary":
            q, k = _turn(q, where, vision.rope_base), _turn(k, where, vision.rope_base)
        scores = (q @ k.T / width**0.5).masked_fill(~mask, float("-inf"))
        heads.append(scores.softmax(-1) @ v)
    return torch.cat(heads, 1) @ state[name + "linear_proj.weight"].T + state.get(name + "linear_proj.bias", 0)


def _turn(x: torch.Tensor, where: list[tuple[int, int]], base: float) -> torch.Tensor:
    """Pair i with i + D/2: the first D/4 pairs turn with the row, the others with the column."""
    quarter = x.shape[1] // 4
    angles = [
        [place * base ** (-i / quarter) for place in (row, column) for i in range(quarter)] for row, column in where
    ]
    turn = torch.polar(torch.ones(len(x), 2 * quarter, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))
    turned = torch.complex(*x.chunk(2, 1)) * turn
    return torch.cat([turned.real, turned.imag], 1)


def _mlp(state: State, vision: VisionConfig, name: str, x: torch.Tensor) -> torch.Tensor:
    hidden = x @ state[name + "linear_fc1.weight"].T + state.get(name + "linear_fc1.bias", 0)
    if vision.mlp == "gelu":
        hidden = gelu(hidden)
    else:
        gate, up = hidden.chunk(2, 1)
        hidden = silu(gate) * up
    return hidden @ state[name + "linear_fc2.weight"].T + state.get(name + "linear_fc2.bias", 0)


def _connect(state: State, vision: VisionConfig, x: torch.Tensor) -> torch.Tensor:
    if vision.connector == "linear":
        return _linear(state, "connector.linear", x)
    if vision.connector == "pixel_shuffle":
        squares = torch.stack([torch.cat(list(x[i : i + 4])) for i in range(0, len(x), 4)])
        weight, bias = state["connector.norm.weight"], state["connector.norm.bias"]
        x = layer_norm(squares, weight.shape, weight, bias, 1e-5)
    return _linear(state, "connector.fc2", gelu(_linear(state, "connector.fc1", x)))


def _linear(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ state[name + ".weight"].T + state[name + ".bias"]


def _norm(state: State, vision: VisionConfig, name: str, x: torch.Tensor) -> torch.Tensor:
    if vision.norm == "rms":
        return _rms(state, vision, name, x)
    weight, bias = state[name + ".weight"], state[name + ".bias"]
    return layer_norm(x, weight.shape, weight, bias, vision.norm_epsilon)


def _rms(state: State, vision: VisionConfig, name: str, x: torch.Tensor) -> torch.Tensor:
    weight = state[name + ".weight"]
    return rms_norm(x, weight.shape, weight, vision.norm_epsilon)


def _scaled(state: State, name: str, branch: torch.Tensor) -> torch.Tensor:
    return branch * state.get(name, 1)
