"""The code that an export carries: it loads with ``trust_remote_code`` where this package is missing, offline too."""

import shutil
from pathlib import Path

from . import configuration_native_multimodal

MODEL = "modeling_native_multimodal.NativeMultimodalForConditionalGeneration"
AUTO_MAP = {
    "AutoConfig": "configuration_native_multimodal.NativeMultimodalConfig",
    "AutoModel": "modeling_native_multimodal.NativeMultimodalModel",
    "AutoModelForImageTextToText": MODEL,
    "AutoModelForMultimodalLM": MODEL,
    "AutoModelForCausalLM": MODEL,
    "AutoImageProcessor": "image_processing_native_multimodal.NativeMultimodalImageProcessor",
    "AutoProcessor": "processing_native_multimodal.NativeMultimodalProcessor",
}
"""``auto_map`` of config.json; the last two stand with the settings of what they name, in processor_config.json."""

LEFT_OUT = ("__init__.py", "export.py", "register.py")
"""Files of this folder that only serve those who have the package."""


def code() -> list[Path]:
    """The files of code that an export carries."""
    folder = Path(configuration_native_multimodal.__file__).parent
    return [path for path in sorted(folder.glob("*.py")) if path.name not in LEFT_OUT]


def write_code(folder: Path) -> None:
    """Copy them into ``folder``, which exists."""
    for path in code():
        shutil.copyfile(path, folder / path.name)
