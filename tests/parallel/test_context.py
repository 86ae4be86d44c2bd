"""Who holds which positions: every one once, evenly by work, in the field's order for a single document."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from megatron_nmm.config import ParallelConfig, RunConfig
from megatron_nmm.parallel.context import WHOLE, ContextShare, owners
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool

RUN = layouts.toy(RunConfig())


class Seen(NamedTuple):
    """What one rank knows of its share of a batch."""

    mine: torch.Tensor
    tokens: torch.Tensor
    supervised: torch.Tensor
    """Flat positions."""
    visual: tuple[torch.Tensor, torch.Tensor]
    """Which of ``Batch.visual_index`` are held, and at which places."""
    order: torch.Tensor
    ranks: tuple[int, int, int]
    """Places in the tensor, context and data group."""


def _look(place: Place, parallel: ParallelConfig) -> Seen:
    with place.world(parallel) as world:
        (batch,) = synthetic.batches(RUN, 1, seed=5)
        share = ContextShare.of(batch, world)
        assert share.mine is not None and share.order is not None
        which, places = share.held(batch.visual_index)
        assert which is not None
        supervised = share.mine[share.supervised(batch)]
        ranks = world.tensor_rank, world.context_rank, world.data_rank
        return Seen(share.mine, share.take(batch.tokens), supervised, (which, places), share.order, ranks)


@pytest.mark.parametrize(("size", "parallel"), [(2, ParallelConfig(context=2)), (4, ParallelConfig(context=4))])
def test_ranks_share_every_position(size: int, parallel: ParallelConfig, pool: WorkerPool) -> None:
    (batch,) = synthetic.batches(RUN, 1, seed=5)
    everyone: list[Seen] = pool.run(size, _look, parallel)
    tokens = batch.tokens.flatten()
    for seen in everyone:
        assert len(seen.mine) == len(tokens) // size
        assert (seen.mine.diff() > 0).all()
        assert torch.equal(seen.tokens, tokens[seen.mine])
        assert torch.equal(seen.order, torch.cat([other.mine for other in everyone]))
        which, places = seen.visual
        assert torch.equal(seen.mine[places], batch.visual_index[which])
    for of in (lambda seen: seen.mine, lambda seen: seen.supervised, lambda seen: seen.visual[0]):
        found = torch.cat([of(seen) for seen in everyone]).sort().values
        assert (found.diff() > 0).all(), "nothing is held twice"
    assert torch.cat([seen.supervised for seen in everyone]).numel() == int(batch.loss_weight.count_nonzero())
    assert sum(len(seen.visual[0]) for seen in everyone) == len(batch.visual_index)


def test_tensor_ranks_lie_within_context_ranks_and_these_within_data_ranks(pool: WorkerPool) -> None:
    seen: list[Seen] = pool.run(4, _look, ParallelConfig(tensor=2, context=2))
    assert [rank.ranks for rank in seen] == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]
    assert torch.equal(seen[0].mine, seen[1].mine) and not torch.equal(seen[0].mine, seen[2].mine)
    apart: list[Seen] = pool.run(4, _look, ParallelConfig(context=2))
    assert [rank.ranks for rank in apart] == [(0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_one_document_is_shared_outside_in(ranks: int) -> None:
    costs = [2 * chunk + 1 for chunk in range(2 * ranks)]
    assert owners(costs, ranks) == [*range(ranks), *reversed(range(ranks))]


def test_packed_rows_are_shared_by_cost_where_the_fixed_order_is_uneven() -> None:
    generator = np.random.default_rng(0)
    ours, fixed = [], []
    for _ in range(50):
        # Four rows of eight chunks for four ranks, packed with documents of up to a row.
        costs = generator.permuted(generator.exponential(size=(4, 8)).cumsum(1), axis=1)
        owner = np.array(owners(costs.flatten().tolist(), 4)).reshape(4, 8)
        assert (np.bincount(owner.flatten()) == 8).all()
        for shares, at in ((ours, owner), (fixed, np.array([[0, 1, 2, 3, 3, 2, 1, 0]] * 4))):
            loads = np.bincount(at.flatten(), weights=costs.flatten())
            shares.append(loads.max() / loads.mean())
    assert np.mean(ours) < 1.02 < 1.1 < np.mean(fixed)


def test_alone_a_rank_holds_everything_as_it_is() -> None:
    (batch,) = synthetic.batches(RUN, 1, seed=5)
    assert torch.equal(WHOLE.take(batch.tokens), batch.tokens.flatten())
    assert WHOLE.mine is None and WHOLE.held(batch.visual_index) == (None, batch.visual_index)
