"""Token losses against torch's cross entropy: values, gradients, extremes, no tokens, a vocabulary split over ranks."""

from typing import NamedTuple

import pytest
import torch
from torch.nn.functional import cross_entropy

from megatron_nmm.config import ParallelConfig
from megatron_nmm.models.loss import ROWS, token_losses
from megatron_nmm.verify.workers import Place, WorkerPool

VOCABULARY = 48
DTYPES = [torch.float32, torch.bfloat16]


class Result(NamedTuple):
    """[N] losses and [N, V / t] gradient of the scores."""

    losses: torch.Tensor
    gradient: torch.Tensor


def scores(tokens: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[N, V] scores of a model that has learnt something."""
    return 3 * torch.randn(tokens, VOCABULARY, generator=torch.Generator().manual_seed(tokens)).to(dtype)


def labels(tokens: int) -> torch.Tensor:
    """[N] labels, the borders of a vocabulary split in two among them."""
    drawn = torch.randint(0, VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(1))
    borders = torch.tensor([0, VOCABULARY // 2 - 1, VOCABULARY // 2, VOCABULARY - 1])
    drawn[:4] = borders[: len(drawn)]
    return drawn


def weights(tokens: int) -> torch.Tensor:
    """[N] the gradient that arrives at each loss."""
    return torch.rand(tokens, generator=torch.Generator().manual_seed(2)) + 0.5


def torchs(scores_NV: torch.Tensor, labels_N: torch.Tensor) -> Result:
    """torch's cross entropy in fp64."""
    leaf = scores_NV.detach().double().requires_grad_()
    losses = cross_entropy(leaf, labels_N, reduction="none")
    return Result(losses.detach(), torch.autograd.grad(losses, leaf, weights(len(labels_N)).double())[0])


def _ours(place: Place, scores_NV: torch.Tensor, labels_N: torch.Tensor) -> Result:
    """Losses and gradient on this rank's slice of the vocabulary."""
    with place.world(ParallelConfig(tensor=place.size)) as world:
        leaf = scores_NV.chunk(place.size, -1)[world.tensor_rank].clone().requires_grad_()
        # The scores are overwritten, hence a copy that autograd sees through.
        losses = token_losses(leaf.clone(), labels_N, world.groups.tp)
        (gradient,) = torch.autograd.grad(losses, leaf, weights(len(labels_N)))
        return Result(losses.detach(), gradient)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, ROWS, 2 * ROWS + 7])
def test_equals_torch(tokens: int, dtype: torch.dtype, pool: WorkerPool) -> None:
    given = scores(tokens, dtype)
    expected = torchs(given, labels(tokens))
    got = pool.run(1, _ours, given, labels(tokens))[0]
    assert (got.losses.dtype, got.gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(got.losses, expected.losses.float(), rtol=1e-5, atol=1e-6)
    # In bf16 the gradient itself is rounded: probability, weight and their product, 2^-9 each.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 4e-3}
    torch.testing.assert_close(got.gradient, expected.gradient.to(dtype), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2])
def test_no_tokens_is_no_loss_and_an_empty_gradient(size: int, dtype: torch.dtype, pool: WorkerPool) -> None:
    for got in pool.run(size, _ours, scores(0, dtype), labels(0)):
        assert got.losses.shape == (0,)
        assert got.gradient.shape == (0, VOCABULARY // size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2])
def test_extreme_scores_stay_finite(size: int, dtype: torch.dtype, pool: WorkerPool) -> None:
    given = torch.zeros(4, VOCABULARY, dtype=dtype)
    given[0] = 1e4  # all equal
    given[1] = -1e4
    given[2, 1], given[2, 40] = 1e4, -1e4  # a rank may hold nothing but zero probabilities
    given[3, 5], given[3, 30] = 1e4, 1e4
    wanted = torch.tensor([0, 30, 40, 5])
    expected = torchs(given, wanted)
    results = pool.run(size, _ours, given, wanted)
    for got in results:
        torch.testing.assert_close(got.losses, expected.losses.float(), rtol=1e-5, atol=1e-5)
    gradient = torch.cat([got.gradient for got in results], -1)
    torch.testing.assert_close(gradient, expected.gradient.to(dtype), rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vocabulary_split_over_two_ranks_equals_one(dtype: torch.dtype, pool: WorkerPool) -> None:
    given, wanted = scores(ROWS + 9, dtype), labels(ROWS + 9)
    one = pool.run(1, _ours, given, wanted)[0]
    first, second = pool.run(2, _ours, given, wanted)
    assert torch.equal(first.losses, second.losses)
    torch.testing.assert_close(first.losses, one.losses, rtol=1e-6, atol=1e-6)
    together = torch.cat([first.gradient, second.gradient], -1)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2  # bf16: the last bit of weight / total may differ
    torch.testing.assert_close(together, one.gradient, rtol=tolerance, atol=1e-6)
