"""The two-way routing of a microbatch: which rows are text, which are visual, as one permutation and its way back.

It is worked out from the batch on the host, so no layer inspects tokens or waits for the device.
"""

from dataclasses import dataclass

import torch

from megatron_nmm.data.batch import Batch
from megatron_nmm.parallel.context import WHOLE, ContextShare


@dataclass(frozen=True)
class Routing:
    """T rows of this rank in modality order: first all text, then all visual ones, each in sequence order."""

    order: torch.Tensor
    """[T] flat position that each place in modality order reads."""
    home: torch.Tensor
    """[T] place in modality order that holds each flat position."""
    text: int
    """How many of the T rows are text."""
    multiple: int = 1
    """What each expert's rows are a multiple of, filled up with zeros, as products in 8 bits want it."""

    @staticmethod
    def of(batch: Batch, device: torch.device, share: ContextShare = WHOLE, multiple: int = 1) -> "Routing":
        """The routing of this rank's ``share`` of ``batch``, with its index vectors on ``device``."""
        text, visual = share.held(batch.text_index)[1], share.held(batch.visual_index)[1]
        order = torch.cat([text, visual])
        home = torch.empty_like(order)
        home[order] = torch.arange(len(order))
        return Routing(order.to(device, non_blocking=True), home.to(device, non_blocking=True), len(text), multiple)
