"""Turns text with ``<image>`` markers into token ids: text segments around runs of the image placeholder.

White space that touches a marker only separates it from the text and is not encoded; all other text is kept as it is.
Tokenising a corpus and prompting a model both go through here, so a prompt looks to the model as its training text did.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_nmm.data.records import IMAGE_MARKER
from megatron_nmm.data.tokens import Tokenizer


def segments(text: str) -> list[str]:
    """The texts before, between and after the markers: one more than there are markers, some may be empty."""
    parts = text.split(IMAGE_MARKER)
    last = len(parts) - 1
    for number, part in enumerate(parts):
        if number > 0:
            part = part.lstrip()
        if number < last:
            part = part.rstrip()
        parts[number] = part
    return parts


def compose(
    encoded: Sequence[Sequence[int]], image_tokens: Sequence[int], tokenizer: Tokenizer, end: bool
) -> npt.NDArray[np.int32]:
    """[tokens] ids: segment, image, segment, image, ..., segment, and eos when ``end``.

    ``encoded`` holds the ids of each of :func:`segments`, ``image_tokens`` the decoder tokens of each image.
    """
    assert len(encoded) == len(image_tokens) + 1, f"{len(encoded)} segments around {len(image_tokens)} images"
    ids = list(encoded[0])
    for count, segment in zip(image_tokens, encoded[1:], strict=True):
        ids.extend([tokenizer.image] * count)
        ids.extend(segment)
    if end:
        ids.append(tokenizer.eos)
    return np.array(ids, dtype=np.int32)
