"""Sparse experts: a router, the way to the experts and back, and the experts, inside megatron-core's MoELayer."""
