"""Evaluation suites get answers through their own base classes, here stood in for by the part of them that is used."""

import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from megatron_nmm.errors import ConfigError
from megatron_nmm.evaluate.harness import NEW_TOKENS, harness_model
from megatron_nmm.evaluate.vlmevalkit import vlmevalkit_class
from megatron_nmm.generate.contract import Decoding
from tests.data.corpora import png
from tests.evaluate.fakes import Parrot


class LM:
    """What lm_eval.api.model.LM sets for a task."""

    def __init__(self) -> None:
        self.rank, self.world_size = 0, 1


class BaseModel:
    """How vlmeval.vlm.base.BaseModel comes to its models' own method."""

    allowed_types = ("text", "image")

    def generate(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """Check and ask."""
        assert all(part["type"] in self.allowed_types for part in message)
        return self.generate_inner(message, dataset)  # type: ignore[attr-defined,no-any-return]


@dataclass(frozen=True)
class Instance:
    """A request of a task."""

    args: tuple[Any, ...]


@pytest.fixture
def suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both packages, as far as adapters see them."""
    for path, name, value in (("lm_eval.api.model", "LM", LM), ("vlmeval.vlm.base", "BaseModel", BaseModel)):
        parts = path.split(".")
        for depth in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
        setattr(sys.modules[path], name, value)


def test_a_task_of_choices(suites: None) -> None:
    parrot = Parrot()
    model = harness_model(parrot)
    assert isinstance(model, LM) and (model.rank, model.world_size) == (0, 1)
    requests = [Instance(("Two and two is", choice)) for choice in (" five", " four", "4")]
    assert model.loglikelihood(requests) == [(-10.0, True), (-10.0, True), (-2.0, False)]
    assert model.loglikelihood_rolling([Instance(("a text",))]) == [-12.0]
    assert parrot.measured[-1] == (("", ()), "a text", False)


def test_a_task_of_answers_with_and_without_images(suites: None) -> None:
    seen: list[tuple[int, ...]] = []

    def reply(text: str, images: Any) -> str:
        seen.extend(np.asarray(Image.open(BytesIO(data))).shape for data in images)
        return text.upper()

    parrot = Parrot(reply)
    picture = Image.new("RGBA", (3, 2))
    requests = [
        Instance(("<image> a", {"until": ["\n\n", ""], "max_gen_toks": 7}, {"visual": [picture]})),
        Instance(("b", {"until": "."})),
        Instance(("c", {"until": ["\n\n"], "max_gen_toks": 7})),
        Instance(("d", {"until": [], "do_sample": True, "temperature": 0.5, "top_p": 0.9})),
        Instance(("e", {"do_sample": False, "temperature": 0.0})),
    ]
    assert harness_model(parrot).generate_until(requests) == ["<IMAGE> A", "B", "C", "D", "E"]
    decodings = {prompt[0]: decoding for prompt, decoding in parrot.asked}
    assert decodings["<image> a"] == decodings["c"] == Decoding(7, stop=("\n\n",))
    assert decodings["b"] == Decoding(NEW_TOKENS, stop=(".",))
    assert decodings["d"] == Decoding(NEW_TOKENS, temperature=0.5, top_p=0.9)
    assert decodings["e"] == Decoding(NEW_TOKENS)
    assert seen == [(2, 3, 3)]


def test_a_message_with_images(suites: None, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    parrot = Parrot(lambda text, images: f" {text} {len(images)} ")
    model = vlmevalkit_class(parrot, Decoding(9))()
    assert isinstance(model, BaseModel)
    image = {"type": "image", "value": str(tmp_path / "a.png")}
    said = model.generate([image, {"type": "text", "value": "Is <image> red?"}, image], dataset="MMBench")
    assert said == "<image>\nIs image red?\n<image> 2"
    assert parrot.asked[0][1] == Decoding(9) and parrot.asked[0][0][1] == (png(1), png(1))


@pytest.mark.parametrize("make", [harness_model, vlmevalkit_class])
def test_a_suite_that_is_not_installed_is_named(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lm_eval", "vlmeval"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"cannot be imported.*pip install"):
        make(Parrot())
