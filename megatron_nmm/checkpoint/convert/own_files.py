"""What an export of this package's own models carries besides weights: its code and the processor of its images."""

import json
from pathlib import Path
from typing import Any

from megatron_nmm.checkpoint.convert.tokenizer_files import FAST
from megatron_nmm.config import RunConfig
from megatron_nmm.config.hf_config import NAME
from megatron_nmm.data.load import run_rule
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import ConfigError
from megatron_nmm.files import durable

PROCESSOR = "processor_config.json"


def own_files(folder: Path, run: RunConfig, tokenizer: Tokenizer | None, chat_template: str | None = None) -> None:
    """Add code, processor and generation settings to ``folder``, which holds config.json and the tokenizer's files.

    Without a tokenizer there is no processor either. ``chat_template``: Jinja, as transformers applies it.
    """
    from megatron_nmm.hf.export import AUTO_MAP, write_code

    write_code(folder)
    processors = ("AutoImageProcessor", "AutoProcessor")
    _add(folder / NAME, {"auto_map": {key: value for key, value in AUTO_MAP.items() if key not in processors}})
    if tokenizer is None:
        return
    _processor(folder, run, tokenizer, chat_template)
    saved = json.loads((folder / PROCESSOR).read_text("utf-8"))
    image = {**saved.get("image_processor", {}), "auto_map": {processors[0]: AUTO_MAP[processors[0]]}}
    _add(folder / PROCESSOR, {"image_processor": image, "auto_map": {processors[1]: AUTO_MAP[processors[1]]}})


def _processor(folder: Path, run: RunConfig, tokenizer: Tokenizer, chat_template: str | None) -> None:
    from transformers import PreTrainedTokenizerFast

    from megatron_nmm.hf import NativeMultimodalImageProcessor, NativeMultimodalProcessor

    rule, data = run_rule(run), run.data
    images = NativeMultimodalImageProcessor(
        image_rule=rule.name,
        patch_size=rule.patch,
        merge_size=rule.shuffle,
        image_size=data.image_size,
        min_patches=data.min_patches,
        max_patches=data.max_patches,
        multi_scale=data.multi_scale,
        do_center_crop=data.augment,
    )
    words = PreTrainedTokenizerFast(tokenizer_file=str(folder / FAST))
    NativeMultimodalProcessor(images, words, chat_template, tokenizer.special).save_pretrained(folder)


def read_chat_template(path: Path) -> str:
    """The template in the file ``path``; ConfigError when it cannot be read or is not Jinja."""
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        template = path.read_text("utf-8")
        ImmutableSandboxedEnvironment().parse(template)
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"the chat template {path} cannot be read ({fault}); give a text file") from fault
    except TemplateSyntaxError as fault:
        raise ConfigError(f"the chat template {path} is not Jinja: line {fault.lineno}: {fault.message}") from fault
    return template


def _add(path: Path, values: dict[str, Any]) -> None:
    """More keys for a JSON file."""
    found = json.loads(path.read_text("utf-8"))
    durable.write(path, (json.dumps({**found, **values}, indent=2) + "\n").encode())
