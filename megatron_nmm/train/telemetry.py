"""Whether images and text both still learn: gradients, updates and features, measured now and then, by side.

The parts of the model are those of models/parts.py. "Visual" ones are those only images use, "others" serve text, or
text and images alike.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace

import torch
import torch.distributed as dist

from megatron_nmm.config import RatesConfig, RunConfig
from megatron_nmm.models.parts import VISUAL_PARTS, part_of
from megatron_nmm.parallel.world import World
from megatron_nmm.precision.select import backend
from megatron_nmm.train.cadence import due
from megatron_nmm.train.casts import CastCounts, CastsReading
from megatron_nmm.train.features import TEXT, VISUAL, FeatureSums
from megatron_nmm.train.optim import Optimizer, Update
from megatron_nmm.train.routing import RoutingReading, RoutingSums
from megatron_nmm.train.shards import Shard

PARTS = tuple(field.name for field in fields(RatesConfig))
COLUMNS = ("gradient", "weight", "update", "reach", "values")
"""Sums of squares of the first four, and the count of weights."""


@dataclass(frozen=True)
class PartReading:
    """One part of the model that trains, or several taken together: norms over all of its weights."""

    gradient: float
    """Before clipping."""
    weight: float
    update: float
    """What gradients moved in the last step; weight decay is not counted. 0 when the step was skipped."""
    reach: float
    """``update`` if every weight had moved by its learning rate; 0 when the step was skipped."""
    values: int
    """Weights that train."""

    @property
    def update_share(self) -> float:
        """``update`` relative to ``weight``; nan where all weights are 0."""
        return self.update / self.weight if self.weight else math.nan

    @property
    def pace(self) -> float:
        """``update`` in units of the learning rate: near 1 with steady gradients, 0 without; nan at rate 0."""
        return self.update / self.reach if self.reach else math.nan

    @staticmethod
    def together(parts: Sequence["PartReading"]) -> "PartReading":
        """Of the weights of all ``parts``."""
        norms = {name: math.hypot(*(getattr(part, name) for part in parts)) for name in COLUMNS[:-1]}
        return PartReading(**norms, values=sum(part.values for part in parts))


@dataclass(frozen=True)
class TelemetryReading:
    """One step seen by side and by part, the same on every rank."""

    parts: dict[str, PartReading]
    """Parts that train, in the order of RatesConfig; what is frozen or not in the model has no entry."""
    text: tuple[float, ...]
    """Mean size of text rows after each decoder layer (features.py); nan where there were none."""
    visual: tuple[float, ...]
    """The same of visual rows."""
    text_rows: int
    """Text rows of the step, padding included."""
    visual_rows: int
    routing: RoutingReading | None = None
    """Where tokens went; None without sparse experts."""
    casts: CastsReading | None = None
    """What casts to 8 bits lost; None where none are emulated."""

    def side(self, *, visual: bool) -> PartReading | None:
        """The visual parts taken together, or all others; None where none of them trains."""
        side = [part for name, part in self.parts.items() if (name in VISUAL_PARTS) == visual]
        return PartReading.together(side) if side else None

    def gradient_share(self, *, visual: bool) -> float:
        """Gradient norm of one side relative to that of everything that trains; nan without any gradient."""
        side, everything = self.side(visual=visual), PartReading.together(list(self.parts.values()))
        return side.gradient / everything.gradient if side and everything.gradient else math.nan

    @property
    def feature_ratios(self) -> tuple[float, ...]:
        """Visual rows' size relative to text rows', after each layer."""
        return tuple(visual / text if text else math.nan for visual, text in zip(self.visual, self.text, strict=True))


class Telemetry:
    """Measures every ``journal.telemetry`` steps and the last one; in between it costs nothing."""

    def __init__(self, run: RunConfig, model: torch.nn.Module, optimizer: Optimizer, world: World) -> None:
        self._run, self._model, self._optimizer, self._world = run, model, optimizer, world
        self._features: FeatureSums | None = None
        self._routing: RoutingSums | None = None
        self._routed: RoutingReading | None = None
        emulated = backend(run.precision, world.device) == "emulated"
        self._casts = CastCounts(model, world) if emulated else None
        self._squares = torch.zeros(0)

    @contextmanager
    def watch(self, step: int) -> Iterator[None]:
        """Around the forward and backward passes of ``step``: features, routing, gradients as they leave the block."""
        self._features = None
        if not (self._run.journal.telemetry and due(self._run.journal.telemetry, step, self._run.steps)):
            yield
            return
        features = FeatureSums(self._run.model.layers, self._world)
        self._routing = RoutingSums(self._run.model, self._world) if self._run.model.sparse_layers else None
        routing = self._routing.watching(self._model) if self._routing else nullcontext()
        casts = self._casts.watching() if self._casts else nullcontext()
        with features.watching(self._model), routing, casts:
            yield
        self._squares = torch.zeros(
            len(PARTS), len(COLUMNS), dtype=torch.float64, device=self._world.device.torch_device
        )
        # Now, because clipping changes the gradients in place.
        for shard in self._optimizer.shards():
            self._row(shard)[COLUMNS.index("gradient")] += _square(shard.gradient)
        self._features = features

    def read(self, update: Update) -> TelemetryReading | None:
        """What ``watch`` and the optimizer's ``update`` after it did; None where nothing was watched. Collective."""
        if self._features is None:
            return None
        for shard in self._optimizer.shards():
            row = self._row(shard)
            row[COLUMNS.index("weight")] += _square(shard.weight)
            row[COLUMNS.index("values")] += shard.weight.numel()
            if update.finite:
                row[COLUMNS.index("update")] += _square(shard.update())
                row[COLUMNS.index("reach")] += shard.reach**2
        routing = self._routing.sums if self._routing else self._squares.new_zeros(0)
        sums = torch.cat([self._squares.flatten(), self._features.sums.flatten(), routing])
        with self._world.waiting("the other ranks' telemetry"):
            dist.all_reduce(sums)
        sizes = [self._squares.numel(), self._features.sums.numel(), routing.numel()]
        squares, features, routing = sums.cpu().split(sizes)
        self._features = None
        self._routed = self._routing.reading(routing, before=self._routed) if self._routing else None
        found = _reading(squares.view(len(PARTS), len(COLUMNS)), features.view(-1, 2, 2))
        return replace(found, routing=self._routed, casts=self._casts.reading() if self._casts else None)

    def _row(self, shard: Shard) -> torch.Tensor:
        """The sums of the shard's part."""
        return self._squares[PARTS.index(part_of(shard.name))]


def _square(values: torch.Tensor) -> torch.Tensor:
    """Sum of squares, fp64, without a copy and without waiting for the device."""
    norm: torch.Tensor = torch.linalg.vector_norm(values, dtype=torch.float64)
    return norm.square()


def _reading(squares: torch.Tensor, features: torch.Tensor) -> TelemetryReading:
    """From the sums over all ranks: [parts, columns], [layers, modalities, (size, rows)]."""
    parts = {
        name: PartReading(math.sqrt(gradient), math.sqrt(weight), math.sqrt(update), math.sqrt(reach), int(values))
        for name, (gradient, weight, update, reach, values) in zip(PARTS, squares.tolist(), strict=True)
        if values
    }
    sizes = features[..., 0] / features[..., 1]  # 0 / 0 is nan: no such rows
    text_rows, visual_rows = (int(rows) for rows in features[0, :, 1].tolist())
    text, visual = (tuple(sizes[:, modality].tolist()) for modality in (TEXT, VISUAL))
    return TelemetryReading(parts, text, visual, text_rows, visual_rows)
