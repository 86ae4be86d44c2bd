"""The table of special embeddings: which rows it fills, what trains it, and that tensor ranks share it."""

from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.rule import SPECIAL_ROWS, SPECIAL_TABLE
from megatron_nmm.models.build import build
from megatron_nmm.parallel.context import WHOLE
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.verify import layouts
from megatron_nmm.verify.layouts import LAYOUTS
from megatron_nmm.verify.synthetic import SPECIAL
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.models.experts.plain import native_batch

RUN = layouts.toy(RunConfig(model=ModelConfig(special_embeddings=True)))
BY_NAME = {layout.name: layout for layout in LAYOUTS}


def _embedded(place: Place, run: RunConfig, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """([T, H] embedded tokens, [12, H] table, [V, H] vocabulary)."""
    with place.world(run.parallel) as world:
        model = build(run, world).module
        with torch.no_grad():
            rows = model.embed(batch, WHOLE)[:, 0]  # type: ignore[operator]
        return rows, model.special_embedding.weight.detach(), model.embedding.word_embeddings.weight.detach()  # type: ignore[union-attr]


def test_layout_tokens_take_their_row_and_the_rest_the_vocabularys(pool: WorkerPool) -> None:
    batch = native_batch(RUN, 1)
    rows, table, vocabulary = pool.run(1, _embedded, RUN, batch)[0]
    tokens = batch.tokens.reshape(-1)
    for name, row in SPECIAL_ROWS.items():
        places = tokens == SPECIAL[name]
        assert places.any()
        assert torch.equal(rows[places], table[row].expand(int(places.sum()), -1))
    others = ~torch.isin(tokens, torch.tensor([SPECIAL["image"], *(SPECIAL[name] for name in SPECIAL_ROWS)]))
    assert torch.equal(rows[others], vocabulary[tokens[others]])


def _gradients(place: Place, run: RunConfig, batch: Batch, frozen: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients of (table, vocabulary), the latter None where it is frozen."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        table, vocabulary = model.module.special_embedding.weight, model.module.embedding.word_embeddings.weight  # type: ignore[union-attr]
        vocabulary.requires_grad_(not frozen)
        forward_backward(model, [batch], world)
        return table.main_grad.clone(), None if frozen else vocabulary.main_grad.clone()


@pytest.mark.parametrize("frozen", [False, True], ids=["vocabulary trains", "vocabulary frozen"])
def test_its_rows_train_and_the_vocabularys_rows_of_these_tokens_do_not(frozen: bool, pool: WorkerPool) -> None:
    run = replace(RUN, model=replace(RUN.model, tie_embeddings=False))
    table, vocabulary = pool.run(1, _gradients, run, native_batch(run, 1), frozen)[0]
    used = sorted(SPECIAL_ROWS.values())
    assert table.abs().amax(-1).nonzero().flatten().tolist() == used and len(table) == SPECIAL_TABLE
    if vocabulary is not None:
        assert not vocabulary[[SPECIAL[name] for name in SPECIAL_ROWS]].any()
        assert vocabulary.any()


@pytest.mark.parametrize("layout", ["TP2", "TP2+SP"])
def test_tensor_ranks_hold_the_same_table_and_the_same_gradient(layout: str, pool: WorkerPool) -> None:
    chosen = BY_NAME[layout]
    run = replace(RUN, parallel=chosen.parallel)
    batch = native_batch(run, 1)
    tables = [table for _, table, _ in pool.run(2, _embedded, run, batch)]
    gradients = [table for table, _ in pool.run(2, _gradients, run, batch, False)]
    assert torch.equal(*tables)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=0)
