"""Serve an export over HTTP with transformers' own OpenAI-compatible server.

    pip install 'transformers[serving]'
    python tools/convert_checkpoint.py to-hf runs/digits/run export --chat-template examples/plain_chat.jinja
    python examples/serve.py export --port 8000

All options are those of ``transformers serve``, which looks models up inside transformers and must be shown this one.
Clients send images as base64 data URIs to /v1/chat/completions.
"""

import sys
from collections.abc import Sequence
from typing import Any


def show_model() -> None:
    """Let the server of transformers 5 find the exported model and know that it takes images.

    It asks transformers itself for the class that config.json names, and a table of names for what a class takes.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TAKE_IMAGES

    from megatron_nmm.hf import NativeMultimodalConfig
    from megatron_nmm.hf import NativeMultimodalForConditionalGeneration as Model

    setattr(transformers, Model.__name__, Model)
    TAKE_IMAGES[NativeMultimodalConfig.model_type] = Model.__name__


def main(arguments: Sequence[str]) -> Any:
    """Start the server."""
    # Before the class is shown: loading the command line may put another module in the place of transformers.
    from transformers.cli.transformers import main as command_line

    show_model()
    sys.argv = ["transformers", "serve", *arguments]
    return command_line()


if __name__ == "__main__":
    main(sys.argv[1:])
