"""Counted pairs equal the mask, entry by entry."""

import random
from itertools import accumulate, pairwise

import pytest
import torch

from megatron_nmm.config.schema_model import ImageMask
from megatron_nmm.errors import DataError
from megatron_nmm.models.accounting import attended_pairs, view_pairs, window_pairs


def brute_force(lengths: list[int], blocks: list[tuple[int, int]], mask: ImageMask) -> int:
    """The mask, entry by entry."""
    ends = list(accumulate(lengths))
    document = [sum(position >= end for end in ends) for position in range(sum(lengths))]
    image = [next((n for n, (start, end) in enumerate(blocks) if start <= p < end), -1) for p in range(sum(lengths))]
    return sum(
        document[query] == document[key]
        and (key <= query or (mask == "bidirectional" and image[query] == image[key] >= 0))
        for query in range(sum(lengths))
        for key in range(sum(lengths))
    )


def random_row(draw: random.Random) -> tuple[list[int], list[tuple[int, int]]]:
    """Document lengths and image blocks inside them, neighbours and empty documents included."""
    lengths = [draw.randrange(0, 9) for _ in range(draw.randrange(0, 5))]
    blocks, start = [], 0
    for length in lengths:
        cuts = sorted(draw.sample(range(length + 1), k=min(length + 1, draw.randrange(0, 5))))
        blocks += [(start + a, start + b) for a, b in pairwise(cuts) if draw.random() < 0.7]
        start += length
    draw.shuffle(blocks)
    return lengths, blocks


def test_attended_pairs_equal_brute_force() -> None:
    draw = random.Random(0)
    for _ in range(200):
        lengths, blocks = random_row(draw)
        for mask in ("causal", "bidirectional"):
            assert attended_pairs(lengths, blocks, mask) == brute_force(lengths, blocks, mask), (lengths, blocks, mask)


@pytest.mark.parametrize("blocks", [[(3, 6)], [(0, 2), (1, 3)], [(2, 2)], [(3, 2)], [(-1, 2)], [(8, 9)], [(7, 9)]])
def test_block_without_a_meaning_is_refused(blocks: list[tuple[int, int]]) -> None:
    with pytest.raises(DataError, match="image block"):
        attended_pairs([4, 4], blocks, "bidirectional")


def windows_by_hand(rows: int, columns: int, side: int) -> int:
    """Every pair of patches of a view that stand in the same window."""
    window = [(row // side, column // side) for row in range(rows) for column in range(columns)]
    return sum(query == key for query in window for key in window)


def test_windows_equal_brute_force() -> None:
    for rows, columns, side in [(4, 4, 2), (5, 3, 2), (1, 7, 4), (3, 3, 8), (6, 9, 1)]:
        assert window_pairs(rows, columns, side) == windows_by_hand(rows, columns, side)
    assert window_pairs(3, 5, 8) == view_pairs(3, 5) == 15**2
    assert window_pairs(3, 5, 0) == 0


def test_pairs_of_many_views_at_once() -> None:
    rows, columns = torch.tensor([4, 5, 1]), torch.tensor([4, 3, 7])
    for side in (0, 2, 4):
        each = [window_pairs(int(row), int(column), side) for row, column in zip(rows, columns, strict=True)]
        assert window_pairs(rows, columns, side).tolist() == each
    assert view_pairs(rows, columns).tolist() == [256, 225, 49]
    assert int(window_pairs(rows[:0], columns[:0], 2).sum()) == 0
