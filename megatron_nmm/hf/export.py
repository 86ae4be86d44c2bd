"""The code that an export carries, so that it loads with ``trust_remote_code`` where this package is not installed."""

import shutil
from pathlib import Path

from . import configuration_native_multimodal

AUTO_MAP = {
    "AutoConfig": "configuration_native_multimodal.NativeMultimodalConfig",
    "AutoModel": "modeling_native_multimodal.NativeMultimodalModel",
    "AutoModelForImageTextToText": "modeling_native_multimodal.NativeMultimodalForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_native_multimodal.NativeMultimodalForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_native_multimodal.NativeMultimodalForConditionalGeneration",
    "AutoImageProcessor": "image_processing_native_multimodal.NativeMultimodalImageProcessor",
    "AutoProcessor": "processing_native_multimodal.NativeMultimodalProcessor",
}
"""``auto_map`` of config.json; of processor_config.json the last one, of the image processor's the last but one."""

LEFT_OUT = ("__init__.py", "export.py", "register.py")
"""Files of this folder that only serve those who have the package."""


def code() -> list[Path]:
    """The files an export carries."""
    folder = Path(configuration_native_multimodal.__file__).parent
    return [path for path in sorted(folder.glob("*.py")) if path.name not in LEFT_OUT]


def write_code(folder: Path) -> None:
    """Copy them into ``folder``, which exists."""
    for path in code():
        shutil.copyfile(path, folder / path.name)
