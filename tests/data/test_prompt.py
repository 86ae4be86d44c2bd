"""A prompt becomes the beginning of the document its training text would be."""

from pathlib import Path

import pytest
import torch

from megatron_nmm.data.decoders.pillow import PillowDecoder
from megatron_nmm.data.load import image_patches
from megatron_nmm.data.prompt import prompt_batch
from megatron_nmm.data.rule import NativeRule
from megatron_nmm.errors import DataError
from tests.data.corpora import RULE, png, run_config, tokenizer


def test_rows_are_one_document_each(tmp_path: Path) -> None:
    loaded, run = tokenizer(tmp_path), run_config(tmp_path, [])
    prompts = [("<image> plus <image> is", [png(1), png(2)]), ("red is", []), ("<image> a", [png(3)])]
    batch = prompt_batch(run, loaded, prompts)
    assert batch.tokens.shape == (3, run.data.sequence_length)
    plus, is_ = loaded.encode("plus"), loaded.encode("is")
    image = [loaded.image] * 4
    expected = [image + plus + image + is_, loaded.encode("red is"), image + loaded.encode("a")]
    for row, ids in enumerate(expected):
        assert batch.document_starts[row, 1] == len(ids)
        assert batch.tokens[row].tolist() == ids + [loaded.pad] * (run.data.sequence_length - len(ids))
    assert batch.kind[:, 0].tolist() == [2, 0, 1]
    patches = torch.cat([torch.from_numpy(image_patches(png(n), RULE, PillowDecoder())[0][0]) for n in (1, 2, 3)])
    assert torch.equal(batch.patches, patches)


def test_native_images_are_laid_out_as_in_training(tmp_path: Path) -> None:
    loaded = tokenizer(tmp_path)
    values = {"image_rule": "native", "min_patches": 4, "max_patches": 64, "multi_scale": True}
    batch = prompt_batch(run_config(tmp_path, [], **values), loaded, [("<image> a", [png(1, side=16)])], length=64)
    rule = NativeRule(patch=RULE.patch, min_patches=4, max_patches=64, multi_scale=True, shuffle=1)
    patches, views = image_patches(png(1, side=16), rule, PillowDecoder())
    ids = [*rule.image_ids(views, loaded.special), *loaded.encode("a")]
    assert batch.tokens[0, : len(ids)].tolist() == ids
    assert batch.document_starts[0, 1] == len(ids)
    assert batch.grids.tolist() == [[view.grid.rows, view.grid.columns] for view in views]
    assert torch.equal(batch.patches, torch.cat([torch.from_numpy(view) for view in patches]))


def test_rows_can_be_shorter_than_training_rows(tmp_path: Path) -> None:
    batch = prompt_batch(run_config(tmp_path, []), tokenizer(tmp_path), [("red", []), ("blue", [])], length=6)
    assert batch.tokens.shape == (2, 6)


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        ("<image> a", [], "prompt 0 has 1 <image> markers but 0 images; give one image for each marker"),
        ("a", [png(0)], "prompt 0 has 0 <image> markers but 1 images"),
        ("", [], "prompt 0 has 0 tokens, a row holds 1 to 32"),
        ("red " * 40, [], "prompt 0 has [0-9]+ tokens, a row holds 1 to 32; give it some text, or shorten it"),
        ("<image> a", [b"<html>"], "prompt 0: the bytes are no image"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path: Path, text: str, images: list[bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prompt_batch(run_config(tmp_path, []), tokenizer(tmp_path), [(text, images)])
