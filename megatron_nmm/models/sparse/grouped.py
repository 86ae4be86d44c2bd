"""All experts in one grouped product, which reads the segments' ends on the device: no wait, no loop on the host.

Shapes: R rows of which those behind the last segment are nobody's, H width, F hidden width, L experts.
"""

import torch
from torch.nn.functional import grouped_mm, silu


def grouped_mlp(
    rows_RH: torch.Tensor, fc1: torch.Tensor, fc2: torch.Tensor, tokens_per_expert: torch.Tensor
) -> torch.Tensor:
    """[R, H] -> [R, H] through fc1 [L, 2F, H], SwiGLU and fc2 [L, H, F]; bf16 on CUDA, where sizes may be 0.

    Rows behind the last segment come back as they may: nobody reads them, and their gradients reach no weight.
    """
    ends = tokens_per_expert.to(rows_RH.device).cumsum(0).int()
    gate, up = grouped_mm(rows_RH, fc1.transpose(-2, -1), offs=ends).chunk(2, -1)
    return grouped_mm(silu(gate) * up, fc2.transpose(-2, -1), offs=ends)
