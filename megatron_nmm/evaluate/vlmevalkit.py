"""Lets VLMEvalKit ask a model that answers: put ``vlmevalkit_class(model)`` into its ``supported_VLM``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_nmm.data.raw.record import IMAGE_MARKER
from megatron_nmm.errors import ConfigError
from megatron_nmm.generate.contract import AnsweringModel, Decoding

DECODING = Decoding(new_tokens=256)


class KitCalls:
    """The one call of the kit's models."""

    INTERLEAVE = True
    INSTALL_REQ = False
    model: AnsweringModel
    decoding: Decoding

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """The answer to a message of parts ``{"type": "image" or "text", "value": path or text}``, in their order."""
        text, images = [], []
        for part in message:
            if part["type"] == "image":
                images.append(Path(part["value"]).read_bytes())
            text.append(IMAGE_MARKER if part["type"] == "image" else part["value"].replace(IMAGE_MARKER, "image"))
        (answer,) = self.model.answers([("\n".join(text), tuple(images))], self.decoding)
        return answer.text.strip()


def vlmevalkit_class(model: AnsweringModel, decoding: Decoding = DECODING) -> Any:
    """A class of ``vlmeval.vlm.base.BaseModel`` that asks ``model``; ConfigError where the kit is not installed."""
    try:
        from vlmeval.vlm.base import BaseModel
    except ImportError as error:
        raise ConfigError(f"VLMEvalKit cannot be imported ({error}); pip install it from its repository") from error
    return type("NativeMultimodalVLM", (KitCalls, BaseModel), {"model": model, "decoding": decoding})
