"""``route`` and its gradient in plain PyTorch. Shapes: T tokens, E experts, K choices.

Scores are softmax or sigmoid of the logits in fp32. The choice looks at score + bias, which lets a bias balance the
load without touching the probabilities (loss-free balancing). Without a bias the logits themselves are ranked: the
order is the same, and no rounding of an exponential can tie or swap two experts, so all implementations choose alike.
"""

import torch

from nmm_kernels.checks import check_dtype, check_float, check_matrix, require, wide

SMALLEST_SUM = 1e-20
"""Chosen scores that sum to less are divided by this, so that scores which all underflow give 0 and not NaN."""


def check_route(logits: torch.Tensor, top_k: int, score: str, bias: torch.Tensor | None) -> None:
    """Raise RuntimeError where ``route`` cannot take these arguments."""
    check_matrix("logits", logits)
    check_float("logits", logits)
    experts = logits.shape[1]
    require(1 <= top_k <= experts, f"top_k is {top_k} for {experts} experts; give 1 to {experts}")
    check_score(score)
    if bias is not None:
        require(
            list(bias.shape) == [experts],
            f"bias has {bias.numel()} values; give one value for each of {experts} experts",
        )
        check_dtype("bias", bias, torch.float32)


def check_route_backward(grad: torch.Tensor, logits: torch.Tensor, experts: torch.Tensor, score: str) -> None:
    """Raise RuntimeError where ``route_backward`` cannot take these arguments."""
    check_matrix("logits", logits)
    check_float("logits", logits)
    check_matrix("grad", grad)
    check_matrix("experts", experts)
    check_dtype("grad", grad, wide(logits.dtype))
    check_dtype("experts", experts, torch.int32)
    require(
        grad.shape == experts.shape and experts.shape[0] == logits.shape[0],
        f"grad {list(grad.shape)}, experts {list(experts.shape)} and logits of {logits.shape[0]} tokens differ;"
        " give what route took and returned",
    )
    check_score(score)


def check_score(score: str) -> None:
    """``score`` is one of the two."""
    require(score in ("softmax", "sigmoid"), f'score is "{score}"; give "softmax" or "sigmoid"')


def scores_of(logits: torch.Tensor, score: str) -> torch.Tensor:
    """[T, E] logits -> [T, E] scores in fp32 (fp64 for fp64 logits)."""
    logits = logits.to(wide(logits.dtype))
    return logits.softmax(-1) if score == "softmax" else logits.sigmoid()


def route(
    logits: torch.Tensor, top_k: int, score: str = "softmax", normalise: bool = False, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[T, E] logits -> probabilities [T, K] fp32, experts [T, K] int32 (best first), counts [E] int32."""
    check_route(logits, top_k, score, bias)
    scores = scores_of(logits, score)
    ranked = logits.to(scores.dtype) if bias is None else scores + bias
    # A stable sort leaves equal ones in order of index; topk promises no order among them. NaN counts as largest.
    experts = ranked.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    probabilities = scores.gather(1, experts)
    if normalise:
        probabilities = probabilities / probabilities.sum(-1, keepdim=True).clamp(min=SMALLEST_SUM)
    chosen = experts.flatten()
    counts = chosen.new_zeros(logits.shape[1]).scatter_add_(0, chosen, torch.ones_like(chosen))
    return probabilities, experts.int(), counts.int()


def route_backward(
    grad: torch.Tensor, logits: torch.Tensor, experts: torch.Tensor, score: str, normalise: bool
) -> torch.Tensor:
    """Gradient of the probabilities [T, K] -> gradient of the logits [T, E], through the chosen scores only."""
    check_route_backward(grad, logits, experts, score)
    scores = scores_of(logits, score)
    chosen = scores.gather(1, experts.long())
    if normalise:
        total = chosen.sum(-1, keepdim=True)
        divisor = total.clamp(min=SMALLEST_SUM)
        mean = (grad * chosen).sum(-1, keepdim=True) / divisor
        grad = (grad - torch.where(total >= SMALLEST_SUM, mean, 0.0)) / divisor
    spread = torch.zeros_like(scores).scatter_(1, experts.long(), grad)
    if score == "softmax":
        result = scores * (spread - (grad * chosen).sum(-1, keepdim=True))
    else:
        result = spread * scores * (1 - scores)
    return result.to(logits.dtype)
