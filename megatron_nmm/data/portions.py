"""A pack plan as a portion of a mixture: its size, its identity, and what each pack holds."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute

from megatron_nmm.config import SourceConfig
from megatron_nmm.config.schema import ShareOf
from megatron_nmm.data.mixture import Portion
from megatron_nmm.data.tables import read_table


def portion(name: str, config: SourceConfig, folder: Path, report: dict[str, Any], share_of: ShareOf) -> Portion:
    """The source ``config`` with the pack plan ``folder``, whose ``report`` is known to fit the run."""
    return Portion(
        name=name,
        packs=int(report["packs"]),
        weight=config.weight,
        max_epochs=config.max_epochs,
        key=plan_key(report),
        counts=None if share_of == "packs" else pack_counts(folder, share_of),
    )


def pack_counts(folder: Path, share_of: ShareOf) -> npt.NDArray[np.int64]:
    """[packs] tokens or samples of each pack of the plan in ``folder``; ones for packs."""
    if share_of == "tokens":
        column = read_table(folder / "plan.parquet", ["tokens"]).column("tokens")
    else:
        column = pyarrow.compute.list_value_length(read_table(folder / "plan.parquet", ["samples"]).column("samples"))
    counts: npt.NDArray[np.int64] = column.to_numpy().astype(np.int64)
    return np.ones_like(counts) if share_of == "packs" else counts


def plan_key(report: dict[str, Any]) -> str:
    """What packs are recognised by wherever they lie: the corpus and all that decided its packing."""
    settings = (report["sequence_length"], report["vision_patches"], report["seed"], report["packs"])
    return "/".join([str(report["corpus"])[:16], *map(str, settings)])
