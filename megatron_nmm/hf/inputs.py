"""Checks and completes what a forward pass is given: padding, positions, images.

Shapes: B rows, S new tokens, K all tokens, P patches, I views.
"""

from typing import Any

import torch


def require_known(ids: Any, embeds: Any, pixels: Any, grids: Any, cache: Any) -> None:
    """ValueError when inputs contradict each other or ask for what the model does not have."""
    if (ids is None) == (embeds is None):
        raise ValueError("the model takes either input_ids or inputs_embeds; give exactly one of them")
    if (pixels is None) != (grids is None):
        raise ValueError("pixel_values and image_grid_hw belong together; give both as the processor returns them")
    if pixels is not None and ids is None:
        raise ValueError("pixel_values have no placeholders in inputs_embeds; give input_ids")
    if pixels is not None and int(grids.prod(1).sum()) != len(pixels):
        raise ValueError(
            f"image_grid_hw say {int(grids.prod(1).sum())} patches, pixel_values hold {len(pixels)}; "
            "take both from one call of the processor"
        )
    if getattr(cache, "is_compileable", False):
        raise ValueError("a key/value cache of fixed size is not supported; use DynamicCache, the default")


def token_mask(attention_mask: torch.Tensor | None, keys: int) -> torch.Tensor | None:
    """[B, K] True on tokens, False on padding; None = tokens all."""
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2 or attention_mask.shape[1] != keys:
        raise ValueError(
            f"attention_mask has shape {list(attention_mask.shape)}; give [rows, {keys}], 1 on tokens (those in the "
            "cache, too) and 0 on padding"
        )
    return attention_mask.bool()


def positions(real_BK: torch.Tensor | None, seen: int, new: int, device: torch.device) -> torch.Tensor:
    """[B or 1, S] of the new tokens, counted over tokens that are no padding."""
    if real_BK is None:
        return torch.arange(seen, seen + new, device=device)[None]
    return (real_BK.long().cumsum(1) - 1).clamp(min=0)[:, seen:]


def images_of_rows(
    image_BS: torch.Tensor, pixels: torch.Tensor, grids: torch.Tensor, merged: int, times: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of every row ``times`` over, in the order of rows that are repeated as often, one after the other.

    image_BS: True on placeholders; pixels [P, ...] and grids [I, 2] of all rows; merged: patches per placeholder.
    """
    patches = (image_BS.sum(1) * merged).tolist()
    ends = grids.prod(1).cumsum(0).tolist()
    row_ends = torch.tensor(patches).cumsum(0).tolist()
    views = [sum(end <= row_end for end in ends) for row_end in row_ends]
    counts = [after - before for before, after in zip([0, *views], views, strict=False)]
    of_rows = zip(pixels.split(patches), grids.split(counts), strict=True)
    repeated = [pair for pair in of_rows for _ in range(times)]
    return torch.cat([pair[0] for pair in repeated]), torch.cat([pair[1] for pair in repeated])
