"""What one operator is made of: its schema, its plain PyTorch twin, its shapes and its gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operator:
    """A row of the table that ``library.register`` hands to PyTorch."""

    name: str
    schema: str
    """Arguments and results as torch.library writes them, without the name."""
    reference: Callable[..., Any]
    """The plain PyTorch twin: it serves on a device whose library is not built, and judges the library where it is."""
    fake: Callable[..., Any]
    """Shapes and dtypes of the results, for meta tensors and torch.compile."""
    setup_context: Callable[..., None] | None = None
    backward: Callable[..., Any] | None = None
    """The gradient; an operator without one is itself a gradient or returns integers only."""
