"""A store for the processes that are here now alone.

torchrun's store outlives a job that it starts again (torch 2.10 and later share it between all attempts): the addresses
of dead processes lie in it, and new ones would call them. So the first rank draws a name for this attempt and gives it
to every process that says hello; what lies under other names is never looked at. How often torchrun has started
(TORCHELASTIC_RESTART_COUNT) is no such name: each node counts its own failures.
"""

import time
import uuid
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

HELLO, WELCOME, HERE = "nmm-hello", "nmm-welcome", "nmm-here"
LOOK_S = 0.02


def by_environment(rank: int, size: int, limit: timedelta) -> Any:
    """The store of this attempt behind MASTER_ADDR and MASTER_PORT. Collective.

    Raises RuntimeError when ranks are missing after ``limit``.
    """
    store, _, _ = next(rendezvous("env://", rank, size, timeout=limit))
    return meet(store, rank, size, limit)


def meet(store: Any, rank: int, size: int, limit: timedelta) -> Any:
    """The part of ``store`` that belongs to the processes which are here now. Collective."""
    name = _welcome_all(store, size, limit) if rank == 0 else _say_hello(store)
    return dist.distributed_c10d.PrefixStore(name, store)


def _say_hello(store: Any) -> str:
    """The name of this attempt, from the first rank; waits for it as long as the store does."""
    me = uuid.uuid4().hex
    store.set(f"{HELLO}/{store.add(HELLO, 1)}", me)
    name: str = store.get(f"{WELCOME}/{me}").decode()
    store.add(f"{HERE}/{name}", 1)
    return name


def _welcome_all(store: Any, size: int, limit: timedelta) -> str:
    """Give a new name to everybody who has said hello, dead ones too, until all others have taken it."""
    name = uuid.uuid4().hex
    seen, end = 0, time.monotonic() + limit.total_seconds()
    while (here := store.add(f"{HERE}/{name}", 0)) < size - 1:
        if time.monotonic() > end:
            raise RuntimeError(f"timed out: {here + 1} of {size} ranks came")
        for number in range(seen + 1, store.add(HELLO, 0) + 1):
            store.set(f"{WELCOME}/{store.get(f'{HELLO}/{number}').decode()}", name)
            seen = number
        time.sleep(LOOK_S)
    return name
