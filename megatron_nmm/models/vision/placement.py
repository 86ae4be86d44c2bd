"""How the tensor group shares the vision encoder: one decision, and the process groups that follow from it.

"tensor": every rank computes its part of every matrix, for all patches. "data": every rank holds the whole encoder and
takes whole views. NaViL-2B's 23 heads, for one, divide by no group of two or more; and an encoder that is small beside
its decoder sends less between ranks as a whole: its gradients once a step in place of its features in every layer.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from megatron_nmm.config import RunConfig
from megatron_nmm.config.schema import Dtype
from megatron_nmm.models.accounting import parameters
from megatron_nmm.models.pipeline_plan import typical_row

if TYPE_CHECKING:  # the decision is asked for where torch is not loaded, too
    from megatron_nmm.parallel.world import World

Placement = Literal["tensor", "data"]
VALUE_BYTES: dict[Dtype, int] = {"fp32": 4, "bf16": 2}


SMALL = 0.1
"""Weights that "data" adds to a rank, as a share of those it holds of the rest of the model, that pass as small."""
SENT_PER_LAYER = 4
"""Times that "tensor" sums the features of a layer over the group: after attention and MLP, forward and backward."""
GRADIENT_BYTES = 4


def placement(run: RunConfig) -> Placement:
    """Where the encoder's work is cut; with a tensor group of one both ways are the same, and it is "tensor"."""
    vision, parallel = run.model.vision, run.parallel
    if parallel.tensor == 1:
        return "tensor"
    if parallel.vision != "auto":
        return parallel.vision
    divides = vision.heads % parallel.tensor == 0 and vision.ffn_width % parallel.tensor == 0
    return "tensor" if divides and not (_small(run) and _sends_less(run)) else "data"


def _small(run: RunConfig) -> bool:
    """Whether a rank has room for the whole encoder beside its share of the rest."""
    counted = parameters(run.model)
    whole, ranks = counted.vision + counted.connector, run.parallel.tensor
    return whole * (1 - 1 / ranks) <= SMALL * (counted.total - whole) / (ranks * run.parallel.pipeline)


def _sends_less(run: RunConfig) -> bool:
    """Whether "data" sends fewer bytes than "tensor" in a step of a single microbatch; of more it gains more."""
    model, vision = run.model, run.model.vision
    row, size = typical_row(run), VALUE_BYTES[run.precision.dtype]
    counted = parameters(model)
    features = SENT_PER_LAYER * vision.depth * row.patches * vision.width * size * run.data.microbatch
    tokens = row.visual_tokens * model.width * size * run.data.microbatch
    return tokens + GRADIENT_BYTES * (counted.vision + counted.connector) < features


def encoder_groups(world: "World", placed: Placement) -> Any:
    """megatron-core's groups for the encoder's layers; in placement "data" their tensor group is this rank alone."""
    if placed == "tensor":
        return world.groups
    import torch.distributed as dist
    from megatron.core.process_groups_config import ProcessGroupCollection

    alone = dist.new_group(
        [world.rank], timeout=timedelta(seconds=world.parallel.time_limit_s), use_local_synchronization=True
    )
    return ProcessGroupCollection(**{**vars(world.groups), "tp": alone})
