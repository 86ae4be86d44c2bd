"""Scaling laws: many runs as one study (sweep), what their losses say (fit, report), which model comes next (plan).

Loads no torch.
"""
