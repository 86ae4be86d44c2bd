"""What the operators demand of their arguments; csrc/checks.h asks the same in C++, in the same words.

Shapes: T tokens, K choices a token, E experts, H width.
"""

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def require(condition: bool, message: str) -> None:
    """Raise RuntimeError, as an operator written in C++ does, unless ``condition`` holds."""
    if not condition:
        raise RuntimeError(message)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are kept in: fp32, or fp64 for fp64 itself so that gradients can be checked numerically."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_matrix(name: str, x: torch.Tensor) -> None:
    """``x`` has two dimensions."""
    require(x.dim() == 2, f"{name} has {x.dim()} dimensions; give it two, [rows, width]")


def check_float(name: str, x: torch.Tensor) -> None:
    """``x`` is floating point with arithmetic of its own (fp8 has none)."""
    require(x.dtype in FLOATS, f"{name} is {x.dtype}; convert it to float32, bfloat16, float16 or float64")


def check_dtype(name: str, x: torch.Tensor, dtype: torch.dtype) -> None:
    """``x`` has exactly this dtype."""
    require(x.dtype == dtype, f"{name} is {x.dtype}; convert it to {dtype}")


def check_row_map(row_map: torch.Tensor, tokens: int | None = None) -> None:
    """``row_map`` is [T, K] int32, with one row for each of ``tokens`` when that is given."""
    check_matrix("row_map", row_map)
    check_dtype("row_map", row_map, torch.int32)
    require(
        tokens is None or row_map.shape[0] == tokens,
        f"row_map has {row_map.shape[0]} rows for {tokens} tokens; make it by dispatch_plan from the same tokens",
    )


def check_probabilities(probabilities: torch.Tensor, row_map: torch.Tensor, y: torch.Tensor) -> None:
    """``probabilities`` is [T, K] as ``row_map`` is, in the dtype that sums of ``y`` are kept in."""
    require(
        probabilities.shape == row_map.shape,
        f"probabilities {list(probabilities.shape)} and row_map {list(row_map.shape)} differ;"
        " give both [tokens, top_k]",
    )
    check_dtype("probabilities", probabilities, wide(y.dtype))


def check_index(name: str, index: torch.Tensor) -> None:
    """``index`` is a vector of int64."""
    require(index.dim() == 1, f"{name} has {index.dim()} dimensions; give it one")
    check_dtype(name, index, torch.int64)


def check_combine_backward(
    grad: torch.Tensor, y: torch.Tensor, row_map: torch.Tensor, probabilities: torch.Tensor
) -> None:
    """The gradient of combine's result fits what combine took."""
    check_matrix("grad", grad)
    check_matrix("y", y)
    check_float("y", y)
    check_dtype("grad", grad, y.dtype)
    require(grad.shape[1] == y.shape[1], f"grad is {grad.shape[1]} wide and y {y.shape[1]}; give both the same width")
    check_row_map(row_map, grad.shape[0])
    check_probabilities(probabilities, row_map, y)


def check_gather_backward(grad: torch.Tensor, index: torch.Tensor, name: str) -> None:
    """The gradient has a row for each place of ``index``."""
    check_matrix("grad", grad)
    check_index(name, index)
    require(
        grad.shape[0] == index.shape[0],
        f"grad has {grad.shape[0]} rows and {name} {index.shape[0]}; give a row for each place",
    )


def check_rows(rows: int) -> None:
    """``rows`` is a count that int32 row numbers can reach."""
    require(0 <= rows < 2**31, f"rows is {rows}; row numbers are int32, so give 0 to {2**31 - 1}")
