"""Megatron-style 3D-parallel training of native multimodal models."""

__version__ = "0.1.0"
