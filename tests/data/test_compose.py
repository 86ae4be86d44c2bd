"""Text and image places become one row of ids, the same for training and prompting."""

from pathlib import Path

import pytest

from megatron_nmm.data.compose import compose, segments
from tests.data.corpora import tokenizer


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("red", ["red"]),
        ("<image> a red thing.", ["", "a red thing."]),
        ("<image> plus <image> is red", ["", "plus", "is red"]),
        ("<image><image>", ["", "", ""]),
        ("  kept <image>\n ", ["  kept", ""]),
        (" kept as it is ", [" kept as it is "]),
    ],
)
def test_white_space_beside_a_marker_only_separates(text: str, parts: list[str]) -> None:
    assert segments(text) == parts


def test_ids_stand_in_the_order_of_the_text(tmp_path: Path) -> None:
    loaded = tokenizer(tmp_path)
    plus, red = loaded.encode("plus"), loaded.encode("is red")
    ids = compose([[], plus, red], [2, 3], loaded, end=True)
    assert ids.tolist() == [loaded.image] * 2 + plus + [loaded.image] * 3 + red + [loaded.eos]
    assert compose([red], [], loaded, end=False).tolist() == red


def test_a_prompt_is_a_prefix_of_its_training_text(tmp_path: Path) -> None:
    loaded = tokenizer(tmp_path)

    def ids(text: str, end: bool) -> list[int]:
        parts = [loaded.encode(part) for part in segments(text)]
        return compose(parts, [4] * (len(parts) - 1), loaded, end).tolist()

    whole = ids("<image> plus <image> is red", end=True)
    prompt = ids("<image> plus <image> is", end=False)
    assert whole[: len(prompt)] == prompt


def test_segments_and_images_must_match(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="1 segments around 1 images"):
        compose([[1]], [2], tokenizer(tmp_path), end=True)
