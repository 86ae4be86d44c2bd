"""Text and image places become one row of ids, the same for training and prompting."""

from pathlib import Path

import pytest

from megatron_nmm.data.compose import compose
from megatron_nmm.data.raw.record import segments
from tests.data.corpora import tokenizer


def test_ids_stand_in_the_order_of_the_text(tmp_path: Path) -> None:
    loaded = tokenizer(tmp_path)
    plus, red = loaded.encode("plus"), loaded.encode("is red")
    ids = compose([[], plus, red], [[7, 8], [9]], loaded, end=True)
    assert ids.tolist() == [7, 8, *plus, 9, *red, loaded.eos]
    assert compose([red], [], loaded, end=False).tolist() == red


def test_a_prompt_is_a_prefix_of_its_training_text(tmp_path: Path) -> None:
    loaded = tokenizer(tmp_path)

    def ids(text: str, end: bool) -> list[int]:
        parts = [loaded.encode(part) for part in segments(text)]
        return compose(parts, [[loaded.image] * 4] * (len(parts) - 1), loaded, end).tolist()

    whole = ids("<image> plus <image> is red", end=True)
    prompt = ids("<image> plus <image> is", end=False)
    assert whole[: len(prompt)] == prompt


def test_segments_and_images_must_match(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="1 segments around 1 images"):
        compose([[1]], [[2]], tokenizer(tmp_path), end=True)
