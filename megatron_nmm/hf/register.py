"""Makes transformers' auto classes know the exported model, and lets what they save carry its code."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from .configuration_native_multimodal import NativeMultimodalConfig
from .image_processing_native_multimodal import NativeMultimodalImageProcessor
from .modeling_native_multimodal import NativeMultimodalForConditionalGeneration, NativeMultimodalModel
from .processing_native_multimodal import NativeMultimodalProcessor

MODELS = {
    AutoModel: NativeMultimodalModel,
    AutoModelForImageTextToText: NativeMultimodalForConditionalGeneration,
    AutoModelForMultimodalLM: NativeMultimodalForConditionalGeneration,
    AutoModelForCausalLM: NativeMultimodalForConditionalGeneration,
}
"""Auto class -> what it gives for a NativeMultimodalConfig."""


def register() -> None:
    """Register every class; doing it twice changes nothing."""
    AutoConfig.register(NativeMultimodalConfig.model_type, NativeMultimodalConfig, exist_ok=True)
    for auto, model in MODELS.items():
        auto.register(NativeMultimodalConfig, model, exist_ok=True)
    AutoImageProcessor.register(NativeMultimodalConfig, NativeMultimodalImageProcessor, exist_ok=True)
    AutoProcessor.register(NativeMultimodalConfig, NativeMultimodalProcessor, exist_ok=True)
