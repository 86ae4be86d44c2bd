"""The table of all operators, forward ones beside their gradients."""

from nmm_kernels.combine.op import COMBINE, COMBINE_BACKWARD
from nmm_kernels.dispatch_plan.op import DISPATCH_PLAN
from nmm_kernels.modality.op import GATHER, GATHER_BACKWARD, SCATTER, SCATTER_BACKWARD
from nmm_kernels.operator import Operator
from nmm_kernels.permute.op import PERMUTE, PERMUTE_BACKWARD
from nmm_kernels.permute_to_fp8.op import PERMUTE_TO_FP8
from nmm_kernels.route.op import ROUTE, ROUTE_BACKWARD

OPERATORS: tuple[Operator, ...] = (
    ROUTE,
    ROUTE_BACKWARD,
    DISPATCH_PLAN,
    PERMUTE,
    PERMUTE_BACKWARD,
    PERMUTE_TO_FP8,
    COMBINE,
    COMBINE_BACKWARD,
    GATHER,
    GATHER_BACKWARD,
    SCATTER,
    SCATTER_BACKWARD,
)
