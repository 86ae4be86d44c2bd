"""One pack takes the largest sample, then its share of images and of samples, and ends on the last token."""

from megatron_nmm.data.packing.fill import Filler, least_tokens
from megatron_nmm.data.packing.pool import Kind, Pool


def _filler(kinds: dict[Kind, int], tokens: int = 100, levels: int = 2) -> Filler:
    return Filler(Pool(list(kinds), list(kinds.values()), tokens), tokens, levels)


def test_the_largest_comes_first_and_the_end_is_exact() -> None:
    filler = _filler({(60, 0): 1, (39, 0): 1, (25, 0): 1, (15, 0): 1})
    assert filler.fill(0.0, 0) == [(60, 0), (25, 0), (15, 0)]
    assert filler.fill(0.0, 0) == [(39, 0)] and not filler.pool


def test_images_come_before_texts_until_the_share_is_there() -> None:
    kinds = {(40, 0): 4, (31, 1): 2, (26, 1): 1}
    assert _filler(kinds).fill(0.0, 0) == [(40, 0), (40, 0)]
    assert _filler(kinds).fill(0.5, 0) == [(40, 0), (31, 1), (26, 1)]


def test_the_first_image_leaves_room_for_the_second() -> None:
    assert _filler({(50, 0): 1, (30, 1): 1, (25, 1): 2, (20, 1): 1}).fill(1.0, 0) == [(50, 0), (30, 1), (20, 1)]


def test_a_text_that_leaves_no_room_for_images_goes_without() -> None:
    assert _filler({(90, 0): 1, (30, 1): 4, (10, 0): 1}).fill(1.0, 0) == [(90, 0), (10, 0)]


def test_company_keeps_tokens_for_the_samples_to_come() -> None:
    filler = _filler({(50, 0): 2, (30, 0): 1, (10, 0): 8})
    assert filler.fill(0.0, 4) == [(50, 0), (30, 0), (10, 0), (10, 0)]
    assert filler.fill(0.0, 99) == [(50, 0), *[(10, 0)] * 5]


def test_fewest_tokens_for_patches() -> None:
    assert least_tokens({1: 30, 2: 50}, 4, 999) == [0, 30, 50, 80, 100]
    assert least_tokens({2: 50}, 3, 999) == [0, 999, 50, 999]
    assert least_tokens({}, 1, 999) == [0, 999]
