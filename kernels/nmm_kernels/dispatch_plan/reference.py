"""``dispatch_plan`` in plain PyTorch: a stable sort by expert. Shapes: T tokens, K choices, E experts."""

import torch

from nmm_kernels.checks import check_dtype, check_matrix, require
from nmm_kernels.dispatch_plan.rows import planned_rows


def check_plan(experts: torch.Tensor, num_experts: int, align: int) -> None:
    """Raise RuntimeError where ``dispatch_plan`` cannot take these arguments."""
    check_matrix("experts", experts)
    check_dtype("experts", experts, torch.int32)
    require(num_experts >= 1, f"num_experts is {num_experts}; give at least 1")
    require(align >= 1, f"align is {align}; give at least 1")
    rows = planned_rows(experts.numel(), num_experts, align)
    require(rows < 2**31, f"the plan may need {rows} rows, but row numbers are int32; split the tokens")


def dispatch_plan(
    experts: torch.Tensor, num_experts: int, align: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[T, K] int32 experts -> row_map [T, K] int32, counts [E] int32, offsets [E + 1] int64."""
    check_plan(experts, num_experts, align)
    flat = experts.flatten().long()
    dropped = (flat < 0) | (flat >= num_experts)
    # Dropped choices are sorted behind the last expert, as an expert E of their own.
    expert = flat.masked_fill(dropped, num_experts)
    counts = expert.new_zeros(num_experts + 1).scatter_add_(0, expert, torch.ones_like(expert))
    padded = (counts[:-1] + align - 1) // align * align
    offsets = torch.cat([padded.new_zeros(1), padded.cumsum(0)])
    order = expert.sort(stable=True).indices
    sorted_expert = expert[order]
    place_in_expert = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[sorted_expert]
    row = torch.empty_like(flat)
    row[order] = offsets[sorted_expert] + place_in_expert
    return row.masked_fill(dropped, -1).int().view_as(experts), counts[:-1].int(), offsets
