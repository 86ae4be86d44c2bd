"""Turns prompts with images into a batch for generation and evaluation, worded exactly as training text is."""

from collections.abc import Sequence

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.collate import collate
from megatron_nmm.data.compose import compose
from megatron_nmm.data.decoders.select import choose
from megatron_nmm.data.load import Loaded, image_patches, run_rule
from megatron_nmm.data.raw.record import KINDS, segments
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError

Prompt = tuple[str, Sequence[bytes]]
"""Text with ``<image>`` markers, and the encoded bytes of each image."""


def prompt_batch(run: RunConfig, tokenizer: Tokenizer, prompts: Sequence[Prompt], length: int | None = None) -> Batch:
    """One row per prompt, one document each (no eos), padded to ``length`` (default ``data.sequence_length``) tokens.

    ``document_starts[:, 1]`` is the length of each prompt. Raises DataError when markers and images differ in number,
    an image cannot be decoded, or a prompt is empty or longer than the row.
    """
    row_length = run.data.sequence_length if length is None else length
    return batch_of(run, tokenizer, load_prompts(run, tokenizer, prompts, row_length), row_length)


def load_prompts(
    run: RunConfig, tokenizer: Tokenizer, prompts: Sequence[Prompt], longest: int, end: bool = False
) -> list[Loaded]:
    """Each prompt as a sample of at most ``longest`` tokens, with eos when ``end``; raises as ``prompt_batch`` does."""
    rule, decoder = run_rule(run), choose(run.data.decoder, run.data.decode)
    require_images(prompts)
    loaded = []
    for number, (text, images) in enumerate(prompts):
        try:
            seen = [image_patches(encoded, rule, decoder, centred=run.data.augment) for encoded in images]
        except DataError as error:
            raise DataError(f"prompt {number}: {error}") from error
        image_ids = [rule.image_ids(views, tokenizer.special) for _, views in seen]
        tokens = compose([tokenizer.encode(part) for part in segments(text)], image_ids, tokenizer, end=end)
        if not 0 < len(tokens) <= longest:
            raise DataError(
                f"prompt {number} has {len(tokens)} tokens, a row holds 1 to {longest}; "
                "give it some text, or shorten it"
            )
        patches = tuple(view for of_image, _ in seen for view in of_image)
        grids = tuple(view.grid for _, views in seen for view in views)
        loaded.append(Loaded(f"prompt-{number}", _kind(images), 0, tokens, patches, grids))
    return loaded


def batch_of(run: RunConfig, tokenizer: Tokenizer, loaded: Sequence[Loaded], length: int) -> Batch:
    """One row of ``length`` tokens per sample of ``load_prompts``."""
    rows = [[sample] for sample in loaded]
    return collate(rows, length, tokenizer.special, run.model.vision.patch_values, run_rule(run).shuffle)


def require_images(prompts: Sequence[Prompt]) -> None:
    """Raise DataError unless every prompt has as many images as markers: at once, before any work is shared out."""
    for number, (text, images) in enumerate(prompts):
        markers = len(segments(text)) - 1
        if markers != len(images):
            raise DataError(
                f"prompt {number} has {markers} <image> markers but {len(images)} images; "
                "give one image for each marker"
            )


def _kind(images: Sequence[bytes]) -> int:
    """A prompt is text without an image, a caption with one, interleaved with more."""
    with_images = "caption" if len(images) == 1 else "interleaved"
    return KINDS.index(with_images if images else "text")
