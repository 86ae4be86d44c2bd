"""Who may attend to whom: text is causal, the tokens of one view of an image see each other, padding is never seen.

Shapes: B rows, S new tokens, K keys: the tokens in the cache and the new ones.
"""

import torch


def image_blocks(image_BS: torch.Tensor, tokens_of_view: torch.Tensor) -> torch.Tensor:
    """[B, S] number of the view whose block a token is in, -1 outside.

    image_BS: True on image placeholders; tokens_of_view [V]: placeholders of each view, over the batch in order. A
    block reaches from the first to the last placeholder of a view, with the line ends between them.
    """
    flat = image_BS.flatten()
    if not len(tokens_of_view):
        return torch.full_like(image_BS, -1, dtype=torch.long)
    owner = torch.repeat_interleave(torch.arange(len(tokens_of_view), device=flat.device), tokens_of_view)
    seen = flat.cumsum(0)
    last, following = seen - 1, seen - flat.long()
    inside = (last >= 0) & (following < len(owner))
    behind, ahead = owner[last.clamp(min=0)], owner[following.clamp(max=len(owner) - 1)]
    return torch.where(inside & (behind == ahead), behind, -1).view(image_BS.shape)


def decoder_mask(
    real_BK: torch.Tensor | None, blocks_BS: torch.Tensor | None, seen: int, new: int, device: torch.device
) -> torch.Tensor | None:
    """[B or 1, 1, S, K] bool, True where a new token may attend to a key; None = plain causal, which needs no mask.

    real_BK: True on tokens that are no padding, None = on all; ``seen``, ``new``: tokens in the cache, and behind it;
    blocks_BS: as ``image_blocks`` has it, None = images are causal, too. A token always sees itself, so that padding
    stays finite.
    """
    blocks = blocks_BS is not None and bool((blocks_BS >= 0).any())
    padded = real_BK is not None and not bool(real_BK.all())
    if not blocks and not padded and (seen == 0 or new == 1):
        return None
    query = torch.arange(seen, seen + new, device=device)[:, None]
    key = torch.arange(seen + new, device=device)
    mask = (key <= query)[None]
    if blocks_BS is not None and blocks:
        of_key = torch.nn.functional.pad(blocks_BS, (seen, 0), value=-1)
        mask = mask | ((blocks_BS[:, :, None] == of_key[:, None]) & (blocks_BS >= 0)[:, :, None])
    if real_BK is not None and padded:
        mask = mask & (real_BK[:, None] | (key == query))
    return mask[:, None]


def added(mask: torch.Tensor | None, seen: int, new: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The same mask as numbers to add to scores, 0 or the smallest of ``dtype``."""
    if mask is None:
        mask = torch.ones(new, seen + new, dtype=torch.bool, device=device).tril(seen)[None, None]
    zero = torch.zeros((), dtype=dtype, device=device)
    return torch.where(mask, zero, torch.finfo(dtype).min)
