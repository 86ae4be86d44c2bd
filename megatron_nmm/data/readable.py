"""A sample as a person reads it: its tokens as text with a mark per image, and its images as pictures."""

from megatron_nmm.data.contact_sheet import Picture
from megatron_nmm.data.corpus import Corpus, Sample
from megatron_nmm.data.decoders.protocol import Decoder, Pixels
from megatron_nmm.data.rule import Grid
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError

SILENT = ("pad", "bos", "eos")
"""Special pieces that say nothing to a reader."""


def readable(sample: Sample, tokenizer: Tokenizer, shuffle: int) -> str:
    """The text of a sample; ``<image 4x4>``, patch rows x columns, stands for each view of an image.

    ``shuffle``: that of the corpus's image rule, side of the square of patches that became one token.
    """
    of_image = {tokenizer.special[name] for name in tokenizer.special if name not in (*SILENT, "unk")}
    silent = {tokenizer.special[name] for name in SILENT}
    parts: list[str] = []
    text: list[int] = []
    placeholders, grids = 0, list(sample.grids)

    def end_text() -> None:
        if text:
            parts.append(tokenizer.decode(text).strip())
            text.clear()

    for token in sample.tokens.tolist():
        if token in of_image:
            end_text()
            placeholders += token == tokenizer.image
            if grids and placeholders * shuffle**2 == grids[0].patches:
                parts.append(_mark(grids.pop(0)))
                placeholders = 0
        elif token not in silent:
            text.append(token)
    end_text()
    return " ".join(filter(None, parts))


def pictures(corpus: Corpus, sample: Sample, title: str, text: str, decoder: Decoder) -> list[Picture]:
    """Every image of a sample, once, with ``title`` and ``text``."""
    places = list(dict.fromkeys(sample.images))
    titles = [
        title if len(places) == 1 else f"{title} ({number + 1} of {len(places)})" for number in range(len(places))
    ]
    return [Picture(_pixels(corpus, place, decoder), own, text) for own, place in zip(titles, places, strict=True)]


def shorten(text: str, letters: int) -> str:
    """The beginning of ``text`` in one line."""
    line = " ".join(text.split())
    return line if len(line) <= letters else f"{line[: letters - 1].rstrip()}…"


def _mark(grid: Grid) -> str:
    return f"<image {grid.rows}x{grid.columns}>"


def _pixels(corpus: Corpus, place: tuple[int, int], decoder: Decoder) -> Pixels | None:
    try:
        return decoder.decode(corpus.image(*place))
    except DataError:
        return None
