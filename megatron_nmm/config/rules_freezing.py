"""Freezing: the parts a model has, and that at least one of them learns."""

from collections.abc import Iterator

from megatron_nmm.config.fault import Fault, either
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.schema_model import ModelConfig


def present_parts(model: ModelConfig) -> tuple[str, ...]:
    """The fields of RatesConfig that stand for at least one parameter of this model, in their order."""
    experts = model.modality_experts
    present = {
        "vision": True,
        "connector": model.vision.depth > 0,
        "visual_attention": experts == "all",
        "visual_ffn": experts != "none",
        "attention": True,
        "ffn": True,
        "router": bool(model.sparse_layers),
        "norms": True,
        "embeddings": True,
        "special_embeddings": model.special_embeddings,
        "output": not model.tie_embeddings,
    }
    return tuple(part for part, there in present.items() if there)


def something_learns(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A stage that freezes every part of the model would compute gradients of nothing."""
    parts = present_parts(run.model)
    if not any(getattr(run.optim.rates, part) for part in parts):
        fact = f"optim.rates is 0 for every part of this model ({', '.join(parts)}): nothing would be trained"
        keys = either([f"optim.rates.{part}" for part in parts])
        yield Fault("optim.rates", fact, f"use a value above 0 for {keys}")
