"""Rows to the expert of their modality and back: copies by a permutation, in both directions."""
