"""Loss sums by context, kind and source: the parts add up to the total, cells without tokens are nan, sums add."""

import math

import pytest
import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.raw.record import KINDS
from megatron_nmm.parallel.losses import CONTEXTS, LossSums
from megatron_nmm.verify import layouts, synthetic

RUN = layouts.toy(RunConfig())
SOURCES = 3


def supervised(batch: Batch) -> int:
    """N, the supervised tokens."""
    return int(batch.loss_weight.count_nonzero())


def losses_of(batch: Batch, seed: int = 0) -> torch.Tensor:
    """[N] losses, one per supervised token."""
    return 5 * torch.rand(supervised(batch), generator=torch.Generator().manual_seed(seed))


def one_by_one(losses_N: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """[contexts, kinds, sources] sums and counts, token by token."""
    loss, tokens = torch.zeros(2, len(CONTEXTS), len(KINDS), SOURCES, dtype=torch.float64)
    remaining = iter(losses_N.tolist())
    for row in range(batch.rows):
        for column in range(batch.sequence_length):
            if batch.loss_weight[row, column]:
                cell = tuple(int(of[row, column]) for of in (batch.context, batch.kind, batch.source))
                loss[cell] += next(remaining)
                tokens[cell] += 1
    return loss, tokens


@pytest.fixture
def batch() -> Batch:
    """Rows that hold every kind and every source."""
    return synthetic.batches(RUN, 1, seed=0, sources=SOURCES)[0]


def test_every_token_lands_in_its_context_kind_and_source(batch: Batch) -> None:
    losses = losses_of(batch)
    sums = LossSums.of(losses, batch, SOURCES)
    loss, tokens = one_by_one(losses, batch)
    torch.testing.assert_close(sums.loss, loss)
    assert torch.equal(sums.tokens, tokens)
    assert (tokens.sum(0) > 0).all(), "the test needs every kind in every source"
    text, caption, interleaved = (tokens[:, kind].sum(1).tolist() for kind in range(len(KINDS)))
    assert text[1] == caption[0] == interleaved[0] == 0, "synthetic pictures stand first"


def test_parts_add_up_to_the_total(batch: Batch) -> None:
    losses = losses_of(batch)
    sums = LossSums.of(losses, batch, SOURCES)
    total = sums.tokens.sum().item()
    assert sums.mean == pytest.approx(losses.double().mean().item(), rel=1e-6)
    contexts = sum(sums.by_context()[name] * sums.tokens[i].sum().item() for i, name in enumerate(CONTEXTS))
    kinds = sum(sums.by_kind()[name] * sums.tokens[:, i].sum().item() for i, name in enumerate(KINDS))
    sources = sum(mean * sums.tokens[..., i].sum().item() for i, mean in enumerate(sums.by_source()))
    assert contexts / total == pytest.approx(sums.mean, rel=1e-6)
    assert kinds / total == pytest.approx(sums.mean, rel=1e-6)
    assert sources / total == pytest.approx(sums.mean, rel=1e-6)


def test_what_has_no_tokens_is_nan() -> None:
    text = synthetic.batches(RUN, 1, seed=3, sources=1, images=False)[0]
    sums = LossSums.of(losses_of(text), text, SOURCES)
    kinds = sums.by_kind()
    assert list(kinds) == list(KINDS)
    assert kinds["text"] == pytest.approx(sums.mean)
    assert math.isnan(kinds["caption"]) and math.isnan(kinds["interleaved"])
    contexts = sums.by_context()
    assert contexts["text"] == pytest.approx(sums.mean) and math.isnan(contexts["image"])
    first, *others = sums.by_source()
    assert first == pytest.approx(sums.mean)
    assert len(others) == SOURCES - 1 and all(math.isnan(mean) for mean in others)


def test_nothing_is_nan_and_changes_no_sum(batch: Batch) -> None:
    nothing, sums = LossSums.zero(SOURCES), LossSums.of(losses_of(batch), batch, SOURCES)
    assert math.isnan(nothing.mean)
    assert nothing.loss.dtype == nothing.tokens.dtype == torch.float64
    both = nothing + sums
    assert torch.equal(both.loss, sums.loss) and torch.equal(both.tokens, sums.tokens)


def test_a_context_begins_with_the_first_image_of_its_document(batch: Batch) -> None:
    losses = losses_of(batch)
    seen = (batch.kind > 0)[batch.loss_weight > 0]  # captions and interleaved pages begin with their picture
    expected = [losses[~seen].double().mean().item(), losses[seen].double().mean().item()]
    sums = LossSums.of(losses, batch, SOURCES)
    assert list(sums.by_context().values()) == pytest.approx(expected, rel=1e-6)


def test_adding_two_batches_is_the_mean_over_all_their_tokens() -> None:
    some, more = (synthetic.batches(RUN, 1, seed=seed, sources=SOURCES)[0] for seed in (3, 4))
    assert supervised(some) != supervised(more), "the test needs batches of different weight"
    losses = [losses_of(some, 1), losses_of(more, 2)]
    sums = LossSums.of(losses[0], some, SOURCES) + LossSums.of(losses[1], more, SOURCES)
    assert sums.tokens.sum().item() == supervised(some) + supervised(more)
    assert sums.mean == pytest.approx(torch.cat(losses).double().mean().item(), rel=1e-6)
    assert sums.mean != pytest.approx((losses[0].mean() + losses[1].mean()).item() / 2, rel=1e-6)


def test_no_graph_is_kept(batch: Batch) -> None:
    sums = LossSums.of(losses_of(batch).requires_grad_(), batch, SOURCES)
    assert not sums.loss.requires_grad
