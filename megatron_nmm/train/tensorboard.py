"""The records of metrics.jsonl as TensorBoard scalars, for those who compare runs there."""

from pathlib import Path
from typing import Self

from megatron_nmm.train.metrics import Record

SCALARS = {
    "learning_rate": "optimizer/learning_rate",
    "grad_norm": "optimizer/grad_norm",
    "tokens_per_second": "speed/tokens_per_second",
    "image_tokens_per_second": "speed/image_tokens_per_second",
    "flops_per_second": "speed/model_flops_per_second",
    "memory_bytes": "speed/memory_bytes",
    "data_wait_s": "speed/data_wait_s",
    "data_wait_share": "speed/data_wait_share",
    "quarantined": "data/quarantined_samples",
}
"""Key of a step's record -> tag."""


class Board:
    """An event file under ``folder``."""

    def __init__(self, folder: Path, start: int) -> None:
        """Continue after step ``start``: TensorBoard hides what an earlier file holds of later steps."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, record: Record) -> None:
        """Add every value the record has."""
        for tag, value in scalars(record).items():
            self._writer.add_scalar(tag, value, record["step"])


def scalars(record: Record) -> dict[str, float]:
    """Tag -> value of a record; what has no value is left out."""
    top = "train" if record["event"] == "step" else "validation"
    tags = {f"{top}/loss": record["loss"]}
    tags |= {f"{top}/kind/{name}": part["loss"] for name, part in record["kinds"].items()}
    tags |= {f"{top}/source/{name}": part["loss"] for name, part in record["sources"].items()}
    tags |= {f"data/epochs/{name}": epochs for name, epochs in record.get("epochs", {}).items()}
    tags |= {tag: record[key] for key, tag in SCALARS.items() if key in record}
    return {tag: value for tag, value in tags.items() if value is not None}
