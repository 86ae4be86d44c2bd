"""Losses by kind and by source add up to the total; parts without tokens have no value, and JSON accepts all of it."""

import json

import pytest
import torch

from megatron_nmm.data.quarantine import Quarantine
from megatron_nmm.parallel.losses import LossSums
from megatron_nmm.train.evaluate import Validation
from megatron_nmm.train.meter import Reading
from megatron_nmm.train.optim import Update
from megatron_nmm.train.record import intake, loss_record, require_sum, step_record, validation_record

READING = Reading(2.0, 100.0, 50.0, 1e9, 1 << 30, 0.5, 30, 1)
INTAKE = intake(56, {"a": 0.5}, Quarantine(10, 0.1, read=90, replaced=2))


def _sums(loss: list[list[float]], tokens: list[list[float]]) -> LossSums:
    return LossSums(torch.tensor(loss, dtype=torch.float64), torch.tensor(tokens, dtype=torch.float64))


def test_parts_and_total() -> None:
    record = loss_record(_sums([[2.0, 0.0], [4.0, 6.0], [0.0, 8.0]], [[1, 0], [2, 2], [0, 4]]), ("a", "b"))
    assert record["loss"] == pytest.approx(20 / 9)
    assert record["tokens"] == 9
    assert record["kinds"]["caption"] == {"loss": 2.5, "tokens": 4}
    assert record["sources"] == {"a": {"loss": 2.0, "tokens": 3}, "b": {"loss": 14 / 6, "tokens": 6}}


def test_a_kind_without_tokens_has_no_loss() -> None:
    record = loss_record(_sums([[0.0], [3.0], [0.0]], [[0], [2], [0]]), ("a",))
    assert record["kinds"]["text"] == {"loss": None, "tokens": 0}
    assert record["loss"] == 1.5


def test_parts_that_do_not_add_up_are_refused() -> None:
    parts = {"a": {"loss": 1.0, "tokens": 5}, "b": {"loss": 2.0, "tokens": 5}}
    require_sum("kinds", parts, 1.5, 10)
    with pytest.raises(AssertionError, match=r"the kinds add up to loss 1\.5, not 1\.50001"):
        require_sum("kinds", parts, 1.50001, 10)
    with pytest.raises(AssertionError, match="10 supervised tokens, the total 11"):
        require_sum("kinds", parts, 1.5, 11)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_step_is_valid_json(bad: float) -> None:
    sums = _sums([[bad], [1.0], [0.0]], [[1], [1], [0]])
    record = step_record(7, sums, ("a",), Update(1e-3, bad, finite=False), READING, INTAKE, 3.0)
    again = json.loads(json.dumps(record, allow_nan=False))
    assert again["loss"] is None
    assert again["grad_norm"] is None
    assert again["kinds"]["text"] == {"loss": None, "tokens": 1}
    assert again["finite"] is False


def test_a_step_records_everything_a_reader_needs() -> None:
    record = step_record(
        7, _sums([[1.0], [0.0], [0.0]], [[2], [0], [0]]), ("a",), Update(1e-3, 0.5, True), READING, INTAKE, 3
    )
    wanted = {
        "event", "step", "loss", "tokens", "kinds", "sources", "learning_rate", "grad_norm", "finite", "seconds",
        "tokens_per_second", "image_tokens_per_second", "flops_per_second", "memory_bytes", "data_wait_s",
        "data_wait_share", "consumed_packs", "epochs", "samples", "replaced_samples", "quarantined", "elapsed_s",
    }  # fmt: skip
    assert set(record) == wanted
    assert record["data_wait_share"] == 0.25
    assert (record["consumed_packs"], record["epochs"], record["samples"], record["replaced_samples"]) == (
        *(56, {"a": 0.5}, 90, 2),
    )


def test_validation_headline_counts_sources_alike() -> None:
    sums = _sums([[0.0, 2.0, 0.0], [900.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0, 1, 0], [300, 0, 0], [0, 0, 0]])
    validation = Validation(sums, ("big", "small", "empty"), 0.1)
    assert validation.mean == 2.5
    assert validation_record(3, validation, 1.0)["loss"] == 2.5
