"""Which positions of a microbatch each rank of the context group holds.

Every row is cut into 2c chunks (B rows, S packed length, T = B * S flat positions, c context ranks). The dearest chunk
goes to the rank with least to do, and all ranks get as many: rank i of a row that is one document has chunks i and
2c - 1 - i, the field's way; rows of packed documents are shared by what their chunks attend to.
"""

from dataclasses import dataclass
from typing import Any

import torch

from megatron_nmm.data.batch import Batch
from megatron_nmm.parallel.world import World


@dataclass(frozen=True)
class ContextShare:
    """One rank's positions of one microbatch, and where all others are. Worked out on the host, alike on all ranks."""

    order: torch.Tensor | None = None
    """[T] flat positions, rank after rank, ascending within each; None where one rank has all of them."""
    place: torch.Tensor | None = None
    """[T] the inverse: where each flat position stands in ``order``."""
    rank: int = 0
    size: int = 1
    group: Any = None
    """The ranks that share the rows."""

    @staticmethod
    def of(batch: Batch, world: World) -> "ContextShare":
        """This rank's share of ``batch``."""
        size = world.parallel.context
        if size == 1:
            return WHOLE
        chunks = batch.positions.reshape(batch.rows * world.parallel.chunks, -1)
        # A token attends to itself and to its document up to it; what an image adds is small beside that.
        owner = torch.tensor(owners((chunks + 1).sum(1).tolist(), size))
        flat = torch.arange(batch.positions.numel()).view_as(chunks)
        order = flat[owner.argsort(stable=True)].flatten()
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        return ContextShare(order, place, world.context_rank, size, world.groups.cp)

    @property
    def mine(self) -> torch.Tensor | None:
        """[T / c] flat positions of this rank, ascending; None = all."""
        return None if self.order is None else self.order.view(self.size, -1)[self.rank]

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """[B, S] -> [T / c] values at this rank's positions."""
        flat = values.reshape(-1)
        return flat if self.mine is None else flat[self.mine]

    def supervised(self, batch: Batch) -> torch.Tensor:
        """[N] those of this rank's places that hold a token with a loss, ascending."""
        return self.take(batch.loss_weight).nonzero().squeeze(1)

    def held(self, positions: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """[N] flat positions -> which of them are this rank's ([n], None = all), and their places among its own [n]."""
        if self.place is None:
            return None, positions
        each = len(self.place) // self.size
        places = self.place[positions] - self.rank * each
        which = ((places >= 0) & (places < each)).nonzero().squeeze(1)
        return which, places[which]

    def to(self, device: torch.device) -> "ContextShare":
        """The same share with its indices on ``device``."""
        if self.order is None or self.place is None:
            return self
        order, place = (index.to(device, non_blocking=True) for index in (self.order, self.place))
        return ContextShare(order, place, self.rank, self.size, self.group)


WHOLE = ContextShare()
"""The share of a rank that has every position to itself."""


def owners(costs: list[int], ranks: int) -> list[int]:
    """The rank of each chunk: the dearest first, to the rank with least to do of those that may still take one.

    Ranks get equally many; ties go to the earlier chunk and the lower rank.
    """
    room, load = [len(costs) // ranks] * ranks, [0] * ranks
    owner = [0] * len(costs)
    for chunk in sorted(range(len(costs)), key=lambda chunk: -costs[chunk]):
        rank = min((rank for rank in range(ranks) if room[rank]), key=load.__getitem__)
        owner[chunk] = rank
        room[rank] -= 1
        load[rank] += costs[chunk]
    return owner
