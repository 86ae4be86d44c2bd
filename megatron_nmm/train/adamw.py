"""AdamW on torch's fused kernel, with the state layout of apex's and Transformer Engine's FusedAdam.

megatron-core's optimizers expect that layout: ``exp_avg`` and ``exp_avg_sq`` per parameter and one ``step`` per
parameter group. torch's own AdamW keeps a step tensor per parameter, which megatron-core cannot reshard.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

    One step of a parameter p with gradient g / ``gradient_divisor`` and group values lr, weight_decay, eps, betas:

        p *= 1 - lr * weight_decay
        m  = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
        p -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    All tensors are fp32; low-precision models hand in their fp32 master weights.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """``params`` are parameter groups; each may set its own ``lr``, ``betas``, ``eps``, ``weight_decay``."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0})
        self.gradient_divisor = 1.0
        """Every gradient is divided by this inside the kernel: clipping without a pass over memory of its own."""

    def allocate_state(self) -> None:
        """Give every parameter its moments, zero; call it once the parameters are the ones to be stepped."""
        for group in self.param_groups:
            for param in group["params"]:
                if not self.state[param]:
                    self.state[param] = {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. ``closure`` is not supported and must be None."""
        assert closure is None, "AdamW.step takes no closure"
        self.allocate_state()
        for group in self.param_groups:
            group["step"] += 1
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._step_group(group, params)

    def _step_group(self, group: dict[str, Any], params: list[torch.Tensor]) -> None:
        device = params[0].device
        # Filled on the device: a tensor made of a number on the host would be carried there, and waited for.
        step = torch.full((), float(group["step"]), device=device)
        divisor = None if self.gradient_divisor == 1.0 else torch.full((), self.gradient_divisor, device=device)
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(
            params,
            [param.grad for param in params if param.grad is not None],
            [self.state[param]["exp_avg"] for param in params],
            [self.state[param]["exp_avg_sq"] for param in params],
            [],
            [step] * len(params),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )
