"""The Hugging Face model that an export loads with: configuration, model, image processor, processor.

Importing this package registers them with transformers' auto classes. It sees torch and transformers alone: its files
are copied into every export (export.py).
"""

from .configuration_native_multimodal import NativeMultimodalConfig, NativeMultimodalVisionConfig
from .image_processing_native_multimodal import NativeMultimodalImageProcessor
from .modeling_native_multimodal import NativeMultimodalForConditionalGeneration, NativeMultimodalModel
from .processing_native_multimodal import NativeMultimodalProcessor
from .register import register

__all__ = [
    "NativeMultimodalConfig",
    "NativeMultimodalForConditionalGeneration",
    "NativeMultimodalImageProcessor",
    "NativeMultimodalModel",
    "NativeMultimodalProcessor",
    "NativeMultimodalVisionConfig",
]

register()
