"""The records of metrics.jsonl as TensorBoard scalars, for those who compare runs there."""

from pathlib import Path
from statistics import fmean
from typing import Self

from megatron_nmm.train.metrics import Record
from megatron_nmm.train.record import ROUTING

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

Tags = dict[str, float | None]
"""Tag -> value."""


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
    tags = EVENTS[record["event"]](record)
    return {tag: value for tag, value in tags.items() if value is not None}


def _losses(record: Record) -> Tags:
    """Of a step or a validation."""
    top = "train" if record["event"] == "step" else "validation"
    tags = {f"{top}/loss": record["loss"]}
    tags |= {f"{top}/context/{name}": part["loss"] for name, part in record["contexts"].items()}
    tags |= {f"{top}/kind/{name}": part["loss"] for name, part in record["kinds"].items()}
    tags |= {f"{top}/source/{name}": part["loss"] for name, part in record["sources"].items()}
    tags |= {f"data/epochs/{name}": epochs for name, epochs in record.get("epochs", {}).items()}
    return tags | {tag: record[key] for key, tag in SCALARS.items() if key in record}


def _telemetry(record: Record) -> Tags:
    """By part first, so that TensorBoard lays the parts' curves side by side."""
    tags = {"telemetry/visual_share_of_gradient": record["gradient_share"]}
    for key in ("gradient", "weight", "update_share"):
        tags |= {f"telemetry/{key}/{name}": part[key] for name, part in record["parts"].items()}
    for side, sizes in record["features"].items():
        tags |= {f"telemetry/features/{side}/layer_{layer:03d}": size for layer, size in enumerate(sizes, 1)}
    return tags


def _routing(record: Record) -> Tags:
    """Each figure as a mean over the sparse layers and by layer, and how many experts got no token."""
    tags: Tags = {"routing/dead": sum(map(len, record["dead"]))}
    for name in ROUTING:
        values = record[name]
        known = [value for value in values if value is not None]
        tags[f"routing/{name}"] = fmean(known) if known else None
        tags |= {
            f"routing/{name}/layer_{layer:03d}": value for layer, value in zip(record["layers"], values, strict=True)
        }
    return tags


def _casts(record: Record) -> Tags:
    """Shares lost, by operand first."""
    return {
        f"casts/{loss}/{operand}/{product}": share
        for loss in ("underflow", "overflow")
        for operand, shares in record[loss].items()
        for product, share in zip(record["products"], shares, strict=True)
    }


def _alarm(record: Record) -> Tags:
    return {f"telemetry/alarm/{record['rule']}": record["value"]}


EVENTS = {
    "step": _losses,
    "validation": _losses,
    "telemetry": _telemetry,
    "routing": _routing,
    "casts": _casts,
    "alarm": _alarm,
}
"""What becomes of a record, by its event."""
