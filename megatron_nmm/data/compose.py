"""Turns text with ``<image>`` markers into token ids: text segments around runs of the image placeholder.

White space that touches a marker only separates it from the text and is not encoded; all other text is kept as it is.
Tokenising a corpus and prompting a model both go through here, so a prompt looks to the model as its training text did.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_nmm.data.tokens import Tokenizer

Ids = Sequence[int] | npt.NDArray[np.int32]
"""[tokens]"""


def compose(encoded: Sequence[Ids], image_ids: Sequence[Ids], tokenizer: Tokenizer, end: bool) -> npt.NDArray[np.int32]:
    """[tokens] ids: segment, image, segment, image, ..., segment, and eos when ``end``.

    ``encoded`` holds the ids of each of :func:`megatron_nmm.data.raw.record.segments`, ``image_ids`` those that stand
    for each image.
    """
    assert len(encoded) == len(image_ids) + 1, f"{len(encoded)} segments around {len(image_ids)} images"
    parts = [encoded[0]]
    for image, segment in zip(image_ids, encoded[1:], strict=True):
        parts += [image, segment]
    if end:
        parts.append((tokenizer.eos,))
    return np.concatenate([np.asarray(part, np.int32) for part in parts])
