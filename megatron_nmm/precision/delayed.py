"""Delayed scaling: a tensor is cast with a scale from the largest magnitudes of earlier microbatches.

The scale is known before the tensor is, which spares a pass over it on a GPU; what has grown since is cut off. State is
kept in two buffers of the layer (config/recipes.py names them), so that checkpoints carry it on:

``fp8_scale`` [3], what input, weight and gradient are multiplied by; ``fp8_amax`` [history, 3], newest first.

Update rule as in Transformer Engine 2: after each pass the amaxes, shared over the group, enter the history; a new
scale is the format's largest value over the history's, and an amax of 0, an infinity or a NaN changes nothing.
"""

from collections import deque
from collections.abc import Mapping

import torch
import torch.distributed as dist

from megatron_nmm.config import PrecisionConfig
from megatron_nmm.precision.casts import OPERANDS, CurrentCasts, Scales, Which, fitting_scale, largest


def first_state(precision: PrecisionConfig, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Buffers that have seen nothing."""
    history = torch.zeros(precision.amax_history, len(OPERANDS), device=device)
    return torch.ones(len(OPERANDS), device=device), history


class DelayedCasts(CurrentCasts):
    """The casts of one layer with these buffers."""

    def __init__(
        self,
        precision: PrecisionConfig,
        group: dist.ProcessGroup | None,
        scale: torch.Tensor,
        history: torch.Tensor,
    ) -> None:
        super().__init__(precision, group)
        self._newest = precision.amax_rule == "most_recent"
        self._scale, self._history = scale, history
        self._recomputed: deque[Scales] = deque()

    def scales(self, matrices: Mapping[Which, torch.Tensor], *, training: bool, recomputes: bool) -> Scales:
        """The scales of earlier passes; those of this one enter the history.

        A recomputed pass takes the scales of its first pass and leaves no trace; so does one without training.
        """
        if training and self._recomputed and "input" in matrices:
            return self._recomputed.popleft()
        used = {name: self._scale[OPERANDS.index(name)].clone() for name in matrices}
        if training or recomputes:
            self._learn(matrices)
        if recomputes:
            self._recomputed.append(used)
        return used

    def _learn(self, matrices: Mapping[Which, torch.Tensor]) -> None:
        amaxes = largest(list(matrices.values()), self._group)
        for name, amax in zip(matrices, amaxes, strict=True):
            column = OPERANDS.index(name)
            history, scale = self._history[:, column], self._scale[column]
            seen = torch.cat([amax[None], history[:-1]])
            history.copy_(torch.where(amax == 0, history, seen))
            ruling = amax if self._newest else torch.where(amax == 0, amax, history.amax())
            ceiling = scale.new_tensor(self._formats[name].largest)
            scale.copy_(fitting_scale(ruling, ceiling, scale))
