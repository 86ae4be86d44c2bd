"""Dispatch operators for sparse mixtures of experts: importing this package registers them under ``torch.ops.nmm``.

Each operator has a folder with its schema, shapes, gradient (op.py) and plain PyTorch twin (reference.py). The C++ and
CUDA versions stand in csrc/ and serve where they are built; README.md tells how.
"""

from nmm_kernels.dispatch_plan.rows import planned_rows
from nmm_kernels.library import register, serving
from nmm_kernels.operators import OPERATORS

__all__ = ["OPERATORS", "planned_rows", "serving"]

register(OPERATORS)
