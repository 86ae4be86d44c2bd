"""An exported folder opened by transformers, for comparison with what was trained: the ways as a table.

Code that lies in the folder is never run: a model of ours loads with this package's classes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from megatron_nmm.checkpoint.convert import native_config
from megatron_nmm.checkpoint.convert.probes import Probe


class Answers(Protocol):
    """A model that answers probes."""

    def scores(self, probe: Probe) -> torch.Tensor:
        """[S, V] fp32 of every position."""

    def greedy(self, probe: Probe, count: int) -> list[int]:
        """The ``count`` likeliest tokens that follow."""


class Opened:
    """A transformers model; ``inputs`` turns a probe into its arguments."""

    def __init__(self, model: Any, inputs: Callable[[Probe], dict[str, torch.Tensor]]) -> None:
        self._model, self._inputs = model.eval(), inputs

    def scores(self, probe: Probe) -> torch.Tensor:
        """[S, V] fp32 of every position, in one pass."""
        with torch.no_grad():
            found: torch.Tensor = self._model(**self._inputs(probe)).logits[0].float()
        return found

    def greedy(self, probe: Probe, count: int) -> list[int]:
        """The ``count`` likeliest tokens that follow, by ``generate`` with its cache, beyond any end of sequence."""
        with torch.no_grad():
            made = self._model.generate(
                **self._inputs(probe), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        found: list[int] = made[0, len(probe.tokens) :].tolist()
        return found


def _native(folder: Path) -> Answers:
    from megatron_nmm.hf.modeling_native_multimodal import NativeMultimodalForConditionalGeneration

    model = NativeMultimodalForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return Opened(model, _with_images)


def _text(folder: Path) -> Answers:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    return Opened(model, lambda probe: {"input_ids": probe.tokens[None]})


def _with_images(probe: Probe) -> dict[str, torch.Tensor]:
    ids = {"input_ids": probe.tokens[None]}
    return ids | {"pixel_values": probe.patches, "image_grid_hw": probe.grids} if len(probe.grids) else ids


OPENERS: Mapping[str, Callable[[Path], Answers]] = {
    native_config.MODEL_TYPE: _native,
    "qwen3": _text,
    "qwen3_moe": _text,
    "llama": _text,
}
"""Kind of folder -> what opens it; the code of the others (NaViL, InternLM2) is part of no library."""
