"""Large narrow matrix products on all threads: in halves of the columns, where oneDNN would run the whole on one.

oneDNN 3 shares a bf16 product among threads by tiles of the result. On processors with AMX its tile is the whole result
for some shapes with few columns: 1,024 x 3,072 by 3,072 x 512 runs on one thread, half as wide or twice as high on all.
In halves such a product takes 0.6 to 0.8 of the time. The rule below is fixed, not tried out when a run starts: halves
may add up in another order, and a run must not depend on a clock's mood.
"""

import torch

FEW_COLUMNS = 512
"""Most columns of a product in halves."""
SHAPES = ((2048, 320, 1280), (1024, 768, 1280))
"""(least depth, least rows, most rows) of those that gain; measured with 2 threads, torch 2.14."""


def in_halves(rows: int, depth: int, columns: int, dtype: torch.dtype) -> bool:
    """Whether ``rows`` x ``depth`` by ``depth`` x ``columns`` is one of these here."""
    if dtype != torch.bfloat16 or columns > FEW_COLUMNS or torch.get_num_threads() == 1:
        return False
    gains = any(depth >= least and low <= rows <= high for least, low, high in SHAPES)
    return gains and torch.cpu._is_amx_tile_supported()


def product(rows_MK: torch.Tensor, weight_KN: torch.Tensor, out_MN: torch.Tensor | None = None) -> torch.Tensor:
    """[M, K] @ [K, N], into ``out_MN`` if there is one; without a graph."""
    rows, depth = rows_MK.shape
    if not in_halves(rows, depth, weight_KN.shape[1], rows_MK.dtype):
        return torch.mm(rows_MK, weight_KN, out=out_MN)
    out = rows_MK.new_empty(rows, weight_KN.shape[1]) if out_MN is None else out_MN
    for columns, place in zip(weight_KN.chunk(2, 1), out.chunk(2, 1), strict=True):
        torch.mm(rows_MK, columns, out=place)
    return out


def matmul(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``torch.matmul`` for linear layers: [..., K] @ [K, N] -> [..., N]."""
    if torch.is_grad_enabled() or not rows.is_cpu or weight.dim() != 2 or not rows.is_contiguous():
        return torch.matmul(rows, weight)
    return product(rows.view(-1, rows.shape[-1]), weight).view(*rows.shape[:-1], weight.shape[1])
