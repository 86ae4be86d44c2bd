"""``torch.ops.nmm.dispatch_plan``: rows in expert order for every choice. Shapes: T tokens, K choices, E experts.

dispatch_plan(experts, num_experts, align) -> (row_map, counts, offsets)
  experts [T, K] int32; an expert outside 0..E-1 is a dropped choice
  row_map [T, K] int32: row of (token, choice), ordered by expert, then token, then choice; -1 where dropped
  counts [E] int32; offsets [E + 1] int64: first row of each expert, segments rounded up to ``align`` rows
Rows in use are offsets[E], at most ``planned_rows(T * K, E, align)``; nothing is read back to the host.
"""

import torch

from nmm_kernels.dispatch_plan import reference
from nmm_kernels.operator import Operator


def fake_dispatch_plan(
    experts: torch.Tensor, num_experts: int, align: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shapes of ``dispatch_plan``."""
    reference.check_plan(experts, num_experts, align)
    return (
        torch.empty_like(experts, memory_format=torch.contiguous_format),
        experts.new_empty(num_experts),
        experts.new_empty(num_experts + 1, dtype=torch.int64),
    )


DISPATCH_PLAN = Operator(
    name="dispatch_plan",
    schema="(Tensor experts, int num_experts, int align=1) -> (Tensor row_map, Tensor counts, Tensor offsets)",
    reference=reference.dispatch_plan,
    fake=fake_dispatch_plan,
)
