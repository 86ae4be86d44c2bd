"""Scaling laws: many runs as one study, what their losses say, and which model to train next; loads no torch."""
