"""A pack plan as a portion of a mixture: its size, its identity, and what each pack holds."""

from typing import Any

from megatron_nmm.config import SourceConfig
from megatron_nmm.config.schema import ShareOf
from megatron_nmm.data.mixture import Portion
from megatron_nmm.data.plan import Plan


def portion(name: str, config: SourceConfig, plan: Plan, share_of: ShareOf) -> Portion:
    """The source ``config`` with its opened pack plan; DataError when that cannot be read any more."""
    return Portion(
        name=name,
        packs=len(plan),
        weight=config.weight,
        max_epochs=config.max_epochs,
        key=plan_key(plan.report),
        counts=None if share_of == "packs" else plan.counts(share_of),
    )


def plan_key(report: dict[str, Any]) -> str:
    """What packs are recognised by wherever they lie: the corpus and all that decided its packing."""
    settings = (report["sequence_length"], report["vision_patches"], report["seed"], report["packs"])
    return "/".join([str(report["corpus"])[:16], *map(str, settings)])
