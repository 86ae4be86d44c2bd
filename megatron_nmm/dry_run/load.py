"""The microbatch of a dry run: full rows of documents with an image each, at P1's share of image tokens.

The same load that stages are planned for (models/pipeline_plan.py). Real rows hold other documents, but a pack never
more tokens than these; its image tokens may be more, up to the patches that its plan allows.
"""

import math
from dataclasses import replace

import numpy as np

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.collate import collate
from megatron_nmm.data.load import Loaded, run_rule
from megatron_nmm.data.rule import ImageRule, View
from megatron_nmm.models.accounting import IMAGE_SHARE
from megatron_nmm.models.pipeline_plan import typical_row
from megatron_nmm.verify.synthetic import FIRST_TEXT_TOKEN, SPECIAL

CAPTION = 1
"""Index of a caption among the kinds of samples."""


def microbatch(run: RunConfig) -> Batch:
    """``run.data.microbatch`` rows of the stated load; pixels are zeros."""
    row = _row(run)
    rows = [[replace(sample, id=f"{index}-{sample.id}") for sample in row] for index in range(run.data.microbatch)]
    vision = run.model.vision
    return collate(rows, run.data.sequence_length, SPECIAL, vision.patch_values, vision.shuffle)


def _row(run: RunConfig) -> list[Loaded]:
    """Documents of an image and text, as many as fit; the last one takes the text that is left."""
    rule, length = run_rule(run), run.data.sequence_length
    views = _views(run, rule, length)
    image = np.array(rule.image_ids(views, SPECIAL), dtype=np.int32) if views else np.zeros(0, dtype=np.int32)
    placeholders = int((image == SPECIAL["image"]).sum())
    text = max(2, round(placeholders * (1 - IMAGE_SHARE) / IMAGE_SHARE) - (len(image) - placeholders))
    count = max(1, length // (len(image) + text)) if views else 1
    ends = [length * (place + 1) // count for place in range(count)]
    lengths = np.diff([0, *ends])
    values = run.model.vision.patch_values
    return [
        Loaded(
            id=str(place),
            kind=CAPTION,
            source=0,
            tokens=np.concatenate([image, np.full(size - len(image), FIRST_TEXT_TOKEN, dtype=np.int32)]),
            patches=tuple(np.zeros((view.grid.patches, values), dtype=np.float32) for view in views),
            grids=tuple(view.grid for view in views),
        )
        for place, size in enumerate(lengths.tolist())
    ]


def _views(run: RunConfig, rule: ImageRule, length: int) -> tuple[View, ...]:
    """Those of a square image of the typical size, or of the largest smaller one that leaves half a row to others;
    none where not even the smallest fits."""
    row = typical_row(run)
    vision, data = run.model.vision, run.data
    if data.image_rule == "square":
        sides = [data.image_size // vision.patch]
    else:
        most = math.isqrt(min(math.isqrt(data.min_patches * data.max_patches), max(1, row.patches)))
        sides = list(range(most, 1, -2))
    for side in sides:
        views = rule.views(side * vision.patch, side * vision.patch)
        if len(rule.image_ids(views, SPECIAL)) < length - 1:
            return views
    return ()
