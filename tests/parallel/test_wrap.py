"""Gradient buffers of a sharded optimizer: what is saved of them is what was in them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_nmm.config import ParallelConfig
from megatron_nmm.verify.layouts import Layout
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import jobs


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_state_of_tables_tied_across_stages_is_stored_in_its_place(
    dtype: str, pool: WorkerPool, tmp_path: Path
) -> None:
    """Tied tables have buckets of their own; 130 rows and 50 columns leave padding between them."""
    stored = []
    for sharded in (False, True):
        layout = Layout("PP2", 2, ParallelConfig(pipeline=2, distributed_optimizer=sharded))
        run = jobs.toy(layout, dtype)
        run = replace(run, model=replace(run.model, tie_embeddings=True, ffn=50, vocabulary=130))
        folder = tmp_path / str(sharded)
        pool.run(2, jobs.train_and_save, run, folder, 2)
        stored.append(pool.run(1, jobs.tensors, folder / "checkpoints/step-00000002")[0])
    plain, shards = stored
    assert plain.keys() == shards.keys()
    for name, tensor in plain.items():
        assert torch.equal(shards[name], tensor), name
