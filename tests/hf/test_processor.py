"""The processor makes of texts and images what the training pipeline makes of them, number for number."""

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from megatron_nmm.config import RunConfig
from megatron_nmm.data.decoders.pillow import PillowDecoder
from megatron_nmm.data.load import image_patches
from megatron_nmm.data.prompt import prompt_batch
from megatron_nmm.data.rule import NativeRule, rule_of
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.hf import NativeMultimodalImageProcessor, NativeMultimodalProcessor
from megatron_nmm.hf.image_rule import ImageRule
from tests.data.corpora import encode
from tests.hf.conftest import IMAGES, PROMPTS, prompts
from tests.hf.mapping import processor_of
from tests.hf.variants import VARIANTS, file_of, picture, run_of

TEXTS = (
    "red, green\nand  blue ",
    "  <image>  between <image> images\n",
    "<|endoftext|> <image> </s> <pad>",
    "<|endoftext|> green plus blue is",  # cut in its middle, where no special token is, it would give other ids
    "\u00e9\u4e2d\u6587 \U0001f600 <|vision_start|>",
)


@pytest.fixture(params=VARIANTS)
def run(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> RunConfig:
    """Every variant in turn."""
    return run_of(request.param, tokenizer)


def same(made: Any, batch: Any) -> bool:
    """Whether the processor's inputs hold what the batch of the same prompts holds."""
    lengths = batch.document_starts[:, 1].tolist()
    rows = [row[mask.bool()] for row, mask in zip(made["input_ids"], made["attention_mask"], strict=True)]
    tokens = [row[:length] for row, length in zip(batch.tokens, lengths, strict=True)]
    return (
        all(torch.equal(row, expected) for row, expected in zip(rows, tokens, strict=True))
        and torch.equal(made["pixel_values"], batch.patches)
        and torch.equal(made["image_grid_hw"], batch.grids)
    )


def test_tokens_patches_and_grids_are_those_of_training(run: RunConfig, tokenizer: Tokenizer) -> None:
    made = processor_of(run, tokenizer)(
        images=[IMAGES[number] for _, numbers in PROMPTS.values() for number in numbers],
        text=[text for text, _ in PROMPTS.values()],
    )
    assert same(made, prompt_batch(run, tokenizer, prompts()))


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_gives_the_ids_of_training(text: str, tokenizer: Tokenizer) -> None:
    run = run_of("early", tokenizer)
    images = [IMAGES[0]] * text.count("<image>")
    made = processor_of(run, tokenizer)(images=images or None, text=text)
    expected = prompt_batch(run, tokenizer, [(text, tuple(map(file_of, images)))])
    assert made["input_ids"][0].tolist() == expected.tokens[0, : expected.document_starts[0, 1]].tolist()


def test_what_training_sees_of_the_middle_the_processor_sees(tokenizer: Tokenizer) -> None:
    run = run_of("early", tokenizer)
    run = replace(run, data=replace(run.data, augment=True))
    made = processor_of(run, tokenizer)(images=IMAGES[1:3], text=["<image>", "<image>"])
    assert same(made, prompt_batch(run, tokenizer, [("<image>", (file_of(image),)) for image in IMAGES[1:3]]))


def _oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(picture(5, 20, 31), "JPEG", exif=exif, quality=90)


FILES: dict[str, Callable[[], bytes]] = {
    "turned JPEG": _oriented,
    "transparent PNG": lambda: encode(picture(6, 17, 19, "RGBA"), "PNG"),
    "grey": lambda: encode(picture(7, 30, 8).convert("L"), "PNG"),
    "16-bit grey": lambda: encode(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG"),
    "palette": lambda: encode(picture(8, 30, 90).convert("P"), "PNG"),
    "CMYK": lambda: encode(picture(9, 90, 30).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("rule", ["square", "native"])
def test_every_kind_of_file_gives_the_pixels_of_training(rule: str, kind: str, tmp_path: Path) -> None:
    made, reference = _rules(rule)
    content = FILES[kind]()
    (tmp_path / "image").write_bytes(content)
    patches, views = image_patches(content, reference, PillowDecoder())
    for given_as in (content, tmp_path / "image", str(tmp_path / "image"), Image.open(tmp_path / "image")):
        seen = made.preprocess(given_as)
        assert torch.equal(seen["pixel_values"], torch.from_numpy(np.concatenate(patches)))
        assert seen["image_grid_hw"].tolist() == [[view.grid.rows, view.grid.columns] for view in views]
        assert seen["views_per_image"].tolist() == [len(views)]


def _rules(name: str) -> tuple[NativeMultimodalImageProcessor, Any]:
    """The same rule on both sides, merging 2 x 2 patches."""
    values: dict[str, Any] = {"image_size": 24, "min_patches": 16, "max_patches": 100, "multi_scale": True}
    made = NativeMultimodalImageProcessor(image_rule=name, patch_size=4, merge_size=2, **values)
    return made, rule_of(name, patch=4, shuffle=2, **values)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.booleans(), st.sampled_from([(256, 24_576), (16, 64), (1, 10)]))
def test_views_and_ids_of_any_size_are_those_of_training(
    height: int, width: int, multi_scale: bool, budget: tuple[int, int]
) -> None:
    special = {"image": 1, "begin_of_image": 2, "end_of_image": 3, "end_of_line": 4, "end_of_scale": 5}
    reference = NativeRule(16, *budget, multi_scale=multi_scale, shuffle=2)
    rule = ImageRule("native", 16, 2, 0, *budget, multi_scale=multi_scale)
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match="thinner than 1 : 200"):
            rule.views(height, width)
        return
    expected, found = reference.views(height, width), rule.views(height, width)
    assert [(view.height, view.width, view.rows, view.columns) for view in found] == [
        (view.height, view.width, view.grid.rows, view.grid.columns) for view in expected
    ]
    grids = [(view.rows, view.columns) for view in found]
    assert rule.ids(grids, special) == reference.image_ids(expected, special)


def test_an_array_is_an_image_as_well() -> None:
    made, _ = _rules("square")
    image = picture(1, 20, 30)
    expected = made.preprocess(image)["pixel_values"]
    for values in (np.asarray(image), torch.from_numpy(np.asarray(image).copy())):
        assert torch.equal(made.preprocess(values)["pixel_values"], expected)


def test_an_image_comes_in_a_uri_as_well() -> None:
    """As chat servers hand them on."""
    made, _ = _rules("square")
    file = encode(picture(1, 20, 30), "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(file).decode()}"
    assert torch.equal(made.preprocess(uri)["pixel_values"], made.preprocess(file)["pixel_values"])


BAD_INPUT: dict[str, tuple[dict[str, Any], str]] = {
    "no text": ({"images": IMAGES[0]}, "there is no text"),
    "no image": ({"text": "<image> a"}, "texts have 1 <image> markers but 0 images"),
    "no marker": ({"text": "a", "images": IMAGES[0]}, "texts have 0 <image> markers but 1 images"),
    "an empty text": ({"text": ["a", ""]}, "a text is empty"),
    "a side": ({"text": "a", "padding_side": "top"}, "padding_side 'top' is unknown; use left or right"),
    "floats": ({"text": "<image>", "images": np.zeros((4, 4, 3))}, r"float64 values and shape \[4, 4, 3\]"),
    "a web address": ({"text": "<image>", "images": "https://a.b/c.png"}, "'https://a.b/c.png' is not fetched; give"),
    "an open URI": ({"text": "<image>", "images": "data:image/png,abc"}, "'data:image/png,abc' is not fetched"),
    "planes first": ({"text": "<image>", "images": np.zeros((3, 4, 4), np.uint8)}, r"uint8 \[height, width, 3\]"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_refused(name: str, tokenizer: Tokenizer) -> None:
    values, message = BAD_INPUT[name]
    with pytest.raises(ValueError, match=message):
        processor_of(run_of("early", tokenizer), tokenizer)(**values)


def test_settings_that_cannot_be_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="image_size 30 is no multiple of 8; use 24"):
        NativeMultimodalImageProcessor(patch_size=4, merge_size=2, image_size=30)
    with pytest.raises(ValueError, match="image_rule 'round' is unknown; use square or native"):
        NativeMultimodalImageProcessor(image_rule="round").preprocess(IMAGES[0])
    with pytest.raises(ValueError, match="no special_token_ids"):
        NativeMultimodalProcessor(None, None)
