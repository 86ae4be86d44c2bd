"""Parameters and floating-point operations of a model, counted from its configuration as tables.

Standard library only, so that a plan, a check or a plot can count without building a model. P1 is "Scaling Laws for
Native Multimodal Models" (arXiv 2504.07951).
"""

from megatron_nmm.models.accounting.flops import IMAGE_SHARE, Flops, Work, encoder_rows, six_nd, step_flops
from megatron_nmm.models.accounting.pairs import attended_pairs, causal_pairs, later_pairs, view_pairs, window_pairs
from megatron_nmm.models.accounting.parameters import Parameters, parameters

__all__ = [
    "IMAGE_SHARE",
    "Flops",
    "Parameters",
    "Work",
    "attended_pairs",
    "causal_pairs",
    "encoder_rows",
    "later_pairs",
    "parameters",
    "six_nd",
    "step_flops",
    "view_pairs",
    "window_pairs",
]
