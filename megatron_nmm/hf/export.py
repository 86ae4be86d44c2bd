"""What an export carries beside weights, config.json and tokenizer.json: the processor's settings, and the code.

With the code it loads with ``trust_remote_code`` where this package is not installed, and without a network.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
"""``auto_map`` of config.json; the last two stand with the settings of what they name, too."""
LEFT_OUT = ("__init__.py", "export.py", "register.py")
"""Files of this folder that only serve those who have the package."""
NAMED = ("pad", "unk", "bos", "eos")
"""Special tokens that tokenizers of transformers have a name for."""


def complete(folder: Path, images: Mapping[str, Any], special: Mapping[str, int]) -> None:
    """Make an export of ``folder``, which holds config.json and tokenizer.json.

    images: the arguments of NativeMultimodalImageProcessor; special: ids by name, as training's tokenizer has them.
    """
    write_code(folder)
    _write(folder / "config.json", {**_read(folder / "config.json"), "auto_map": AUTO_MAP})
    image_processor = {**images, **_class("AutoImageProcessor", "image_processor_type")}
    processor = {"image_processor": image_processor, "special_token_ids": dict(special)}
    _write(folder / "processor_config.json", processor | _class("AutoProcessor", "processor_class"))
    _write(folder / "tokenizer_config.json", _tokenizer(folder / "tokenizer.json", special))


def _class(auto: str, key: str) -> dict[str, Any]:
    """The class behind an auto class, as settings name it: alone, and with its file."""
    return {key: AUTO_MAP[auto].rpartition(".")[2], "auto_map": {auto: AUTO_MAP[auto]}}


def code() -> list[Path]:
    """The files of code that an export carries."""
    folder = Path(configuration_native_multimodal.__file__).parent
    return [path for path in sorted(folder.glob("*.py")) if path.name not in LEFT_OUT]


def write_code(folder: Path) -> None:
    """Copy them into ``folder``, which exists."""
    for path in code():
        shutil.copyfile(path, folder / path.name)


def _tokenizer(file: Path, special: Mapping[str, int]) -> dict[str, Any]:
    """How transformers opens tokenizer.json; special tokens that training appended are not in it and have no name."""
    pieces = {token["id"]: token["content"] for token in _read(file).get("added_tokens") or []}
    names = {f"{name}_token": pieces[special[name]] for name in NAMED if special[name] in pieces}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}


def _read(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
