"""TensorBoard gets the values of metrics.jsonl under stable tags, and steps taken again replace the old ones."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_nmm.train.metrics import Record
from megatron_nmm.train.tensorboard import Board, scalars


def _record(step: int, loss: float) -> Record:
    part = {"caption": {"loss": loss, "tokens": 1}, "text": {"loss": None, "tokens": 0}}
    return {"event": "step", "step": step, "loss": loss, "kinds": part, "sources": {}, "learning_rate": 1e-3}


def test_tags() -> None:
    assert scalars(_record(1, 2.0)) == {
        "train/loss": 2.0,
        "train/kind/caption": 2.0,
        "optimizer/learning_rate": 1e-3,
    }
    intake = {"data_wait_share": 0.01, "epochs": {"web": 0.5}, "quarantined": 2}
    assert (
        scalars(_record(1, 2.0) | intake).items()
        >= {
            "speed/data_wait_share": 0.01,
            "data/epochs/web": 0.5,
            "data/quarantined_samples": 2,
        }.items()
    )


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    with Board(tmp_path, 0) as board:
        for step in (1, 2, 3):
            board.write(_record(step, 1.0))
    with Board(tmp_path, 1) as board:
        for step in (2, 3):
            board.write(_record(step, 2.0))
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 2.0), (3, 2.0)]
