"""How many (query, key) pairs attend: the true size of attention under the masks of decoder and encoder."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from megatron_nmm.config.schema_model import ImageMask
from megatron_nmm.errors import DataError


def attended_pairs(document_lengths: Sequence[int], image_blocks: Sequence[tuple[int, int]], mask: ImageMask) -> int:
    """(query, key) pairs of one packed row: causal inside each document, and both ways inside each image.

    ``image_blocks`` are (start, end exclusive) positions in the row and count only for a bidirectional mask.
    DataError when a block is empty, overlaps another or leaves its document, for then the mask is not defined.
    """
    pairs: int = sum(map(causal_pairs, document_lengths))
    if mask == "causal":
        return pairs
    ends = list(accumulate(document_lengths))
    previous = 0
    for start, end in sorted(image_blocks):
        document_end = next((e for e in ends if start < e), 0)
        if not previous <= start < end <= document_end:
            raise DataError(
                f"image block ({start}, {end}) is empty, overlaps the one before it or leaves its document; document "
                f"ends are {ends}: give blocks of one image each, inside one document"
            )
        previous = end
        pairs += later_pairs(end - start)
    return pairs


def causal_pairs(length: Any) -> Any:
    """(query, key) pairs of a document of ``length`` tokens: each sees itself and all before; int or integer tensor."""
    return length * (length + 1) // 2


def later_pairs(length: Any) -> Any:
    """Pairs that bidirectional attention inside an image of ``length`` tokens adds to the causal ones: later keys."""
    return length * (length - 1) // 2


def view_pairs(rows: Any, columns: Any, class_token: bool = False) -> Any:
    """Pairs of an encoder layer that sees a whole view of ``rows`` x ``columns`` patches, and perhaps its class token;
    ints or integer tensors."""
    return (rows * columns + class_token) ** 2


def window_pairs(rows: Any, columns: Any, side: int) -> Any:
    """Pairs of an encoder layer with windows of ``side`` patches, cut from the top left: those at the right and lower
    edge are smaller. Ints or integer tensors; ``side`` 0 = no windows, no pairs."""
    return 0 * rows if side == 0 else _spans(rows, side) * _spans(columns, side)


def _spans(length: Any, side: int) -> Any:
    """Sum of the squared lengths of the spans that ``side`` cuts ``length`` into."""
    return length // side * side**2 + (length % side) ** 2
