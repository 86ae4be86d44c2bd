"""Where the pieces of a run lie on its ranks: group sizes, the layers of every stage, microbatches in flight."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from megatron_nmm.config.schema import ParallelConfig, RunConfig
from megatron_nmm.models.pipeline_plan import stage_layers
from megatron_nmm.models.vision.placement import placement


@dataclass(frozen=True)
class Place:
    """A run on a number of processes. Ranks lie tensor fastest, then context, then data, then pipeline."""

    world: int
    tensor: int
    context: int
    """Ranks that share the positions of a row."""
    pipeline: int
    virtual: int
    """Pieces of the decoder on each pipeline rank."""
    expert: int
    layers: tuple[tuple[int, ...], ...]
    """Of each pipeline rank, the decoder layers (from 0) that it holds."""
    rows: int
    """Packed rows of a microbatch."""
    microbatches: int
    """On each data rank in a step."""
    sequence: int
    """Ranks that share the rows of the residual stream: the tensor group under sequence parallelism, else 1."""
    recompute: str
    """What the backward pass computes again: none, selective (attention) or full."""
    encoder: int
    """Tensor ranks that split the encoder's matrices; 1 = each has all of them, and images of its own."""

    @staticmethod
    def of(run: RunConfig, world: int) -> "Place":
        """The place of a run that ``check`` finds legal on ``world`` processes."""
        parallel, data = run.parallel, run.data
        replicas = world // parallel.of_copy
        return Place(
            world=world,
            tensor=parallel.tensor,
            context=parallel.context,
            pipeline=parallel.pipeline,
            virtual=parallel.virtual_stages,
            expert=parallel.expert,
            layers=_dealt(_stages(_without_rows(run)), parallel.pipeline),
            rows=data.microbatch,
            microbatches=data.global_batch // (data.microbatch * replicas),
            sequence=parallel.tensor if parallel.sequence else 1,
            recompute=parallel.recompute,
            encoder=parallel.tensor if placement(run) == "tensor" else 1,
        )

    @property
    def encoder_workers(self) -> int:
        """Ranks of a stage's copy that encode images of their own."""
        return self.context * self.tensor // self.encoder

    @property
    def stage(self) -> int:
        """Ranks of one pipeline stage."""
        return self.world // self.pipeline

    @property
    def data(self) -> int:
        """Replicas of the model, each with rows of its own."""
        return self.stage // (self.tensor * self.context)

    def replicas(self, *, expert: bool) -> int:
        """Ranks that hold the same weights: data and context ranks, or those with the same sparse experts."""
        return self.stage // self.expert if expert else self.data * self.context

    def in_flight(self, rank: int) -> float:
        """Microbatches whose activations pipeline rank ``rank`` holds at most, in its share of the layers.

        One forward, one backward: those that are under way between this rank and the last. Dealt in rounds,
        megatron-core starts (p - rank - 1) 2 + (v - 1) p pieces before the first backward, each 1 / v of the rank's
        layers.
        """
        if self.virtual == 1:
            return min(self.microbatches, self.pipeline - rank)
        ahead = (self.pipeline - rank - 1) * 2 + (self.virtual - 1) * self.pipeline
        return min(self.virtual * self.microbatches, ahead + 1) / self.virtual


@lru_cache(1024)
def _stages(run: RunConfig) -> tuple[int, ...]:
    """Layers of each stage; planned once for all layouts that cut the decoder alike."""
    return stage_layers(run)


def _without_rows(run: RunConfig) -> RunConfig:
    """What the stages do not depend on, made alike."""
    cut = ParallelConfig(
        pipeline=run.parallel.pipeline,
        virtual_stages=run.parallel.virtual_stages,
        stage_layers=run.parallel.stage_layers,
    )
    return replace(run, parallel=cut, data=replace(run.data, microbatch=1))


def _dealt(stages: Sequence[int], ranks: int) -> tuple[tuple[int, ...], ...]:
    """Layers of each rank: stages in the decoder's order go to the ranks in turn."""
    held: list[list[int]] = [[] for _ in range(ranks)]
    first = 0
    for stage, layers in enumerate(stages):
        held[stage % ranks] += range(first, first + layers)
        first += layers
    return tuple(map(tuple, held))
