"""Prompts with images to what the model takes, token for token as training composes them.

Each ``<image>`` in a text marks an image; white space that touches the marker only separates it from the text and is
left out. No text can spell a special token. Shapes: B texts, S tokens of the longest.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .pixels import flat

MARKER = "<image>"
"""Marks the place of an image in a text."""


class NativeMultimodalProcessor(ProcessorMixin):
    """A tokenizer and an image processor, and the ids of the special tokens between them."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        special_token_ids: dict[str, int] | None = None,
        **_: Any,
    ) -> None:
        """special_token_ids: ids of pad, unk, image, begin_of_image, end_of_image, end_of_line and end_of_scale, as
        training numbers them; the tokenizer need not know these tokens. ValueError when there are none."""
        if not special_token_ids:
            raise ValueError("the processor has no special_token_ids; give those of the training tokenizer")
        self.special_token_ids = dict(special_token_ids)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        padding_side: str = "left",
        return_tensors: str | None = "pt",
        **_: Any,
    ) -> BatchFeature:
        """input_ids and attention_mask [B, S], and with images the image processor's pixel_values and image_grid_hw.

        text: one text or B of them; images: as many as there are markers in all texts, in order, nested or not. No text
        ends with an end of sequence. ValueError when markers and images differ in number or there is no text.
        """
        if text is None or len(text) == 0:
            raise ValueError("there is no text; give text, with <image> where an image stands")
        texts = [text] if isinstance(text, str) else list(text)
        found = [] if images is None else list(flat(images))
        markers = sum(one.count(MARKER) for one in texts)
        if markers != len(found):
            raise ValueError(f"texts have {markers} {MARKER} markers but {len(found)} images; give one image for each")
        seen = self.image_processor(found, return_tensors="pt") if found else None
        of_images = iter(() if seen is None else self._ids_of_images(seen))
        data = _padded([self._ids(one, of_images) for one in texts], self.special_token_ids["pad"], padding_side)
        if seen is not None:
            data |= {name: seen[name] for name in ("pixel_values", "image_grid_hw")}
        return BatchFeature(data, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes of ``__call__``'s result: all of it."""
        return ["input_ids", "attention_mask", "pixel_values", "image_grid_hw"]

    def _ids_of_images(self, seen: BatchFeature) -> list[list[int]]:
        """The token ids of each image."""
        grids = [(int(rows), int(columns)) for rows, columns in seen["image_grid_hw"].tolist()]
        found, first = [], 0
        for count in seen["views_per_image"].tolist():
            found.append(self.image_processor.rule.ids(grids[first : first + count], self.special_token_ids))
            first += count
        return found

    def _ids(self, text: str, of_images: Any) -> list[int]:
        """Segment, image, segment, ..., segment."""
        parts = text.split(MARKER)
        last = len(parts) - 1
        ids: list[int] = []
        for number, part in enumerate(parts):
            if number:
                ids += next(of_images)
                part = part.lstrip()
            ids += self._encode(part.rstrip() if number < last else part)
        if not ids:
            raise ValueError("a text is empty; give some text or an image")
        return ids

    def _encode(self, text: str) -> list[int]:
        """Ids of plain text. One that spells a special token is cut in the middle until none comes out."""
        if not text:
            return []
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        added = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        forbidden = {*self.special_token_ids.values(), *added} - {self.special_token_ids["unk"]}
        if not forbidden.intersection(ids):
            return ids
        if len(text) == 1:
            return [self.special_token_ids["unk"]]
        middle = len(text) // 2
        return self._encode(text[:middle]) + self._encode(text[middle:])


def _padded(rows: list[list[int]], pad: int, side: str) -> dict[str, torch.Tensor]:
    """Rows filled up to the longest on their left or right."""
    if side not in ("left", "right"):
        raise ValueError(f"padding_side {side!r} is unknown; use left or right")
    length = max(map(len, rows))
    ids, mask = torch.full((len(rows), length), pad), torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(length - len(row), length) if side == "left" else slice(len(row))
        ids[number, place] = torch.tensor(row)
        mask[number, place] = 1
    return {"input_ids": ids, "attention_mask": mask}
