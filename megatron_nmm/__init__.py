"""Megatron-style 3D-parallel training of native multimodal models.

Two papers are cited throughout: P1 is "Scaling Laws for Native Multimodal Models" (arXiv 2504.07951), NaViL is "NaViL:
Rethinking Scaling Properties of Native Multimodal Large Language Models under Data Constraints" (arXiv 2510.08565).
"""

__version__ = "0.1.0"
