"""Freezing: the parameters of parts whose learning rate is 0 take no gradient."""

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.models.parts import relative_rate


def freeze(model: torch.nn.Module, run: RunConfig) -> None:
    """Take gradients from every parameter of ``model`` that ``run.optim.rates`` freezes.

    Call it before ``wrap``: a frozen parameter then has no gradient buffer, no optimizer state, no share in the
    gradient norm, and megatron-core's linear layers neither keep its inputs nor compute its gradient.
    """
    for name, param in model.named_parameters():
        if relative_rate(name, run) == 0.0:
            param.requires_grad_(False)
