"""What a sparse layer has to know about the tokens of a microbatch: which are padding, which are balanced together.

Shapes: T flat rows of this rank (its share of the sequence under sequence or context parallelism), B packed rows, U
units of balance.
"""

from dataclasses import dataclass

import torch

from megatron_nmm.config.schema_model import SparseConfig
from megatron_nmm.data.batch import Batch

TEXT, IMAGE, PADDING = range(3)
"""What a position holds: a token of text or of an image's layout, an image token, nothing."""


@dataclass(frozen=True)
class SparsePlan:
    """The tokens of one microbatch on one rank."""

    kind: torch.Tensor
    """[T] int64: TEXT, IMAGE or PADDING."""
    members: torch.Tensor
    """[U, T] fp32: 1 where a token, not padding, counts in a unit; a unit is the microbatch, or a packed row."""
    filled: torch.Tensor
    """[U] fp32: tokens of each unit over all ranks that share it, at least 1."""
    loss_scale: torch.Tensor
    """[] fp32: one over the tokens of the step, which makes a mean of a sum over tokens."""

    @staticmethod
    def of(
        batch: Batch,
        sparse: SparseConfig,
        device: torch.device,
        loss_scale: torch.Tensor | None,
        share: torch.Tensor | slice,
    ) -> "SparsePlan":
        """The plan of ``batch``; ``share`` says which flat positions are this rank's. ``loss_scale`` None: 1."""
        length = batch.sequence_length
        real = torch.arange(length) < batch.filled[:, None]
        kind = torch.where(real, batch.modality, PADDING).reshape(-1)
        if sparse.balance_over == "row":
            of_row = torch.arange(batch.rows).repeat_interleave(length)
            members = (of_row == torch.arange(batch.rows)[:, None]) & real.reshape(-1)
            filled = batch.filled
        else:
            members, filled = real.reshape(1, -1), batch.filled.sum(0, keepdim=True)
        return SparsePlan(
            kind[share].to(device, non_blocking=True),
            members[:, share].float().to(device, non_blocking=True),
            filled.clamp(min=1).float().to(device, non_blocking=True),
            torch.ones((), device=device) if loss_scale is None else loss_scale,
        )
