"""How the tests of every implementation compare results: bit by bit where a call moves rows, else within rounding."""

from typing import Any

import nmm_kernels
import torch
from nmm_kernels.calls import EXACT, Call

REFERENCES = {operator.name: operator.reference for operator in nmm_kernels.OPERATORS}

NO_LIBRARY = "no C++ compiler here: the reference serves, and there is nothing to compare it with"


def has_library() -> bool:
    """Whether compiled operators serve the CPU."""
    return nmm_kernels.serving()["CPU"].startswith("library")


def tensors(result: Any) -> tuple[torch.Tensor, ...]:
    """The results of an operator, however many."""
    return result if isinstance(result, tuple) else (result,)


def assert_same(call: Call, result: Any, expected: Any) -> None:
    """Fail unless the results of ``call`` agree in shape, dtype and value."""
    for ours, theirs in zip(tensors(result), tensors(expected), strict=True):
        assert ours.is_contiguous()
        if call.operator in EXACT:
            assert ours.dtype == theirs.dtype
            ours, theirs = as_bits(ours), as_bits(theirs)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        else:
            torch.testing.assert_close(ours, theirs)


def as_bits(x: torch.Tensor) -> torch.Tensor:
    """8-bit floats as bytes, for torch compares no other way; anything else as it is."""
    return x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x
