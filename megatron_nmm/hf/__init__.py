"""The Hugging Face model that an export loads with: configuration, model, image processor, processor.

Importing this package registers them with transformers' auto classes:

    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    made = model.generate(**processor(images=[image], text="<image> a red"), max_new_tokens=20)

Without this package ``trust_remote_code=True`` does, with the code in the folder: these files see torch and
transformers alone and are copied into every export (export.py).
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
