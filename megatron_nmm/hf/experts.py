"""Sparse experts: a router sends each token to a few of many MLPs, and drops none (arXiv 2504.07951, section 2).

Shapes: T tokens, E experts, K choices, H width.
"""

import torch
from torch import nn

from .attention import SwiGLU
from .configuration_native_multimodal import NativeMultimodalConfig

SMALLEST_SUM = 1e-20
"""Scores that sum to less are divided by this."""


class Router(nn.Module):
    """[T, H] -> probabilities [T, K] fp32 and experts [T, K], best first; scores are computed in fp32."""

    def __init__(self, config: NativeMultimodalConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.score, self.normalise = config.score_function, config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.e_score_correction_bias: torch.Tensor | None
        bias = torch.zeros(config.num_experts, dtype=torch.float32) if config.router_bias else None
        self.register_buffer("e_score_correction_bias", bias)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The choice looks at score + bias, which balances the load and leaves the probabilities alone."""
        logits = rows.float() @ self.weight.float().t()
        scores = logits.softmax(-1) if self.score == "softmax" else logits.sigmoid()
        # Without a bias the logits themselves are ranked: the same order, and no rounding can swap two experts.
        ranked = logits if self.e_score_correction_bias is None else scores + self.e_score_correction_bias.float()
        experts = ranked.sort(dim=-1, descending=True, stable=True).indices[:, : self.top_k]
        probabilities = scores.gather(1, experts)
        if self.normalise:
            probabilities = probabilities / probabilities.sum(-1, keepdim=True).clamp(min=SMALLEST_SUM)
        return probabilities, experts


class SparseMLP(nn.Module):
    """[..., H] -> [..., H]: the answers of each token's experts, weighed by the router."""

    def __init__(self, config: NativeMultimodalConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        width, hidden = config.hidden_size, config.moe_intermediate_size
        self.experts = nn.ModuleList(SwiGLU(width, hidden) for _ in range(config.num_experts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One expert after the other, each over the tokens that chose it; idle ones are left out."""
        rows = x.flatten(0, -2)
        probabilities, experts = self.gate(rows)
        out = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
        for number in experts.unique().tolist():
            token, choice = (experts == number).nonzero(as_tuple=True)
            answer = self.experts[number](rows[token])
            out = out.index_add(0, token, answer * probabilities[token, choice, None])
        return out.to(x.dtype).view(x.shape)
