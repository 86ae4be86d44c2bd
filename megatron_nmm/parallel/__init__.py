"""Ranks, groups, pipeline schedule and the data-parallel wrapper."""
