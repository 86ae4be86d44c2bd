"""The range of every number in the tree, as a table: one row a key, each value on its own."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from megatron_nmm.config.fault import Fault
from megatron_nmm.config.schema import RatesConfig, RunConfig
from megatron_nmm.config.values import leaves

LARGEST = 2**31 - 1
"""No size or count of a run reaches 31 bits; what does is a typing mistake."""


@dataclass(frozen=True)
class Range:
    """The numbers a key may hold; ``open_low`` and ``open_high`` leave the end itself out."""

    low: float
    high: float = LARGEST
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"
        if self.high == LARGEST:
            return low
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high:.12g}"


ANY_COUNT = Range(0)
SIZE = Range(1)
POSITIVE = Range(0, open_low=True)
SHARE = Range(0, 1)
DECAY_RATE = Range(0, 1, open_high=True)
ROPE_BASE = Range(1, open_low=True)
"""At 1 every pair of numbers would turn at the same speed."""

BOUNDS: dict[str, Range] = {
    "steps": SIZE,
    "seed": Range(0, 2**32 - 1),  # what NumPy's and torch's generators both take
    "threads": ANY_COUNT,
    "model.layers": SIZE,
    "model.width": SIZE,
    "model.heads": SIZE,
    "model.query_groups": SIZE,
    "model.head_dim": SIZE,
    "model.ffn": SIZE,
    "model.vocabulary": SIZE,
    "model.norm_epsilon": POSITIVE,
    "model.rope_base": ROPE_BASE,
    "model.init_std": POSITIVE,
    "model.sparse.experts": ANY_COUNT,
    "model.sparse.top_k": SIZE,
    "model.sparse.ffn": SIZE,
    "model.sparse.dense_layers.*": ANY_COUNT,
    "model.sparse.balance_loss": ANY_COUNT,
    "model.sparse.z_loss": ANY_COUNT,
    "model.sparse.bias_rate": ANY_COUNT,
    "model.vision.depth": ANY_COUNT,
    "model.vision.width": SIZE,
    "model.vision.heads": SIZE,
    "model.vision.ffn": SIZE,
    "model.vision.layer_scale": ANY_COUNT,
    "model.vision.norm_epsilon": POSITIVE,
    "model.vision.rope_base": ROPE_BASE,
    "model.vision.table_side": ANY_COUNT,
    "model.vision.window": ANY_COUNT,
    "model.vision.full_layers.*": ANY_COUNT,
    "model.vision.patch": SIZE,
    "model.vision.channels": Range(3, 3),  # decoders always deliver RGB
    "parallel.tensor": SIZE,
    "parallel.pipeline": SIZE,
    "parallel.context": SIZE,
    "parallel.virtual_stages": SIZE,
    "parallel.expert": SIZE,
    "parallel.stage_layers.*": ANY_COUNT,
    "parallel.time_limit_s": POSITIVE,
    "precision.plain_first": ANY_COUNT,
    "precision.plain_last": ANY_COUNT,
    "precision.amax_history": SIZE,
    "data.sequence_length": Range(2),  # a label is the next token
    "data.microbatch": SIZE,
    "data.global_batch": SIZE,
    "data.image_size": SIZE,
    "data.min_patches": SIZE,
    "data.max_patches": SIZE,
    "data.temperature": POSITIVE,
    "data.max_bad": ANY_COUNT,
    "data.max_bad_share": SHARE,
    "data.noise": ANY_COUNT,
    "data.workers": ANY_COUNT,
    "data.train.*.weight": POSITIVE,
    "data.train.*.max_epochs": POSITIVE,
    "optim.learning_rate": POSITIVE,
    "optim.beta1": DECAY_RATE,
    "optim.beta2": DECAY_RATE,
    "optim.epsilon": POSITIVE,
    "optim.weight_decay": ANY_COUNT,
    "optim.clip": ANY_COUNT,
    **{f"optim.rates.{part.name}": ANY_COUNT for part in fields(RatesConfig)},
    "schedule.warmup": ANY_COUNT,
    "schedule.cooldown": SHARE,
    "schedule.floor": SHARE,
    "save.every": ANY_COUNT,
    "save.keep": SIZE,
    "save.at.*": SIZE,
    "evaluate.every": ANY_COUNT,
    "evaluate.sources.*.weight": POSITIVE,
    "evaluate.sources.*.max_epochs": POSITIVE,
    "evaluate.packs": SIZE,
    "journal.every": SIZE,
    "journal.telemetry": ANY_COUNT,
}


def pattern(key: str) -> str:
    """``data.train.0.weight`` as it stands in the table: ``data.train.*.weight``."""
    return ".".join("*" if part.isdecimal() else part for part in key.split("."))


def out_of_range(run: RunConfig, skip: set[str]) -> Iterator[Fault]:
    """A fault for every number outside its range; keys in ``skip`` hold values of the wrong kind."""
    for key, _, value in leaves(RunConfig, run):
        bound = BOUNDS.get(pattern(key))
        if bound is None or value is None or key in skip or value in bound:
            continue
        yield Fault(key, f"{key} {value} is out of range", _remedy(value, bound))


def _remedy(value: float, bound: Range) -> str:
    """The end that was passed, which is the nearest legal value unless it is an open one."""
    if bound.low == bound.high:
        return f"use {bound.low:g}"
    if value > bound.high == LARGEST:
        return f"use a value of at most {LARGEST}"
    return f"use a value {bound}"
