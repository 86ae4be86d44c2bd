"""Work that may fail on one rank: all ranks learn of it and raise the same error, and no rank waits in vain."""

from collections.abc import Callable

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from megatron_nmm.errors import CheckpointError, NMMError
from megatron_nmm.parallel.world import World


class RankFailure(CheckpointError):
    """What failed, on which rank; ``errno`` is the system's number where the system refused, else None."""

    def __init__(self, fact: str, errno: int | None) -> None:
        super().__init__(fact)
        self.errno = errno


def everywhere[T](world: World, what: str, work: Callable[[], T]) -> list[T]:
    """Run ``work`` (free of collectives) on every rank; the results in the order of ranks, equal on every rank.

    Raises RankFailure on every rank when it failed on one.
    """
    mine = _attempt(work)
    outcomes: list[tuple[T | None, tuple[str, int | None] | None]] = [mine] * world.size
    with world.waiting(f"{what} on every rank"):
        dist.all_gather_object(outcomes, mine)
    for rank, (_, failure) in enumerate(outcomes):
        if failure is not None:
            raise RankFailure(f"{failure[0]} (rank {rank}, {what})" if world.size > 1 else failure[0], failure[1])
    return [value for value, _ in outcomes]  # type: ignore[misc]


def on_main[T](world: World, what: str, work: Callable[[], T]) -> T:
    """Run ``work`` on rank 0 alone; its result, or its error as RankFailure, on every rank."""
    value, failure = world.from_main(_attempt(work) if world.is_main else None, f"{what} on rank 0")
    if failure is not None:
        raise RankFailure(*failure)
    return value  # type: ignore[no-any-return]


def from_torch(what: str, error: CheckpointException) -> RankFailure:
    """torch.distributed.checkpoint's collective error, which every rank raises alike, in our words."""
    rank, (cause, _) = min(error.failures.items())
    return RankFailure(f"{_fact(cause)} (rank {rank}, {what})", getattr(cause, "errno", None))


def _attempt[T](work: Callable[[], T]) -> tuple[T | None, tuple[str, int | None] | None]:
    try:
        return work(), None
    except Exception as error:  # whatever it is, the other ranks must hear of it
        return None, (_fact(error), getattr(error, "errno", None))


def _fact(error: BaseException) -> str:
    if isinstance(error, NMMError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
