"""The server of transformers finds an exported model where examples/serve.py puts it."""

import importlib.util
from pathlib import Path

import pytest
import transformers
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TAKE_IMAGES

from megatron_nmm.hf import NativeMultimodalConfig, NativeMultimodalForConditionalGeneration
from tests.examples.test_recipes import EXAMPLES

NAME = NativeMultimodalForConditionalGeneration.__name__


def test_the_model_is_where_the_server_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("serve", EXAMPLES / "serve.py")
    assert spec is not None and spec.loader is not None
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    monkeypatch.setattr(transformers, NAME, None, raising=False)
    monkeypatch.setitem(TAKE_IMAGES, NativeMultimodalConfig.model_type, "")
    serve.show_model()
    assert getattr(transformers, NAME) is NativeMultimodalForConditionalGeneration
    assert NAME in TAKE_IMAGES.values()


def test_the_server_looks_there() -> None:
    """By its source, since importing it takes a web framework."""
    folder = Path(str(transformers.__file__)).parent / "cli" / "serving"
    source = (folder / "model_manager.py").read_text(encoding="utf-8")
    assert "getattr(transformers, config.architectures[0])" in source
    assert "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()" in source


def test_the_plain_template_lays_parts_end_to_end() -> None:
    template = ImmutableSandboxedEnvironment().from_string((EXAMPLES / "plain_chat.jinja").read_text(encoding="utf-8"))
    parts = [{"type": "image"}, {"type": "text", "text": " plus "}, {"type": "image"}, {"type": "text", "text": " is"}]
    assert template.render(messages=[{"role": "user", "content": parts}]) == "<image> plus <image> is"
    assert template.render(messages=[{"role": "user", "content": "one plus"}]) == "one plus"
