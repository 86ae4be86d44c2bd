"""Processes of one attempt meet under a name of their own, whatever dead ones have left in the store."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from megatron_nmm.parallel import meeting

LIMIT = timedelta(seconds=5)


def _store(server: "dist.TCPStore | None" = None) -> "dist.TCPStore":
    """A server, or a connection to one."""
    port = server.port if server is not None else 0
    return dist.TCPStore("127.0.0.1", port, is_master=server is None, timeout=LIMIT, wait_for_workers=False)


def _attempt(server: "dist.TCPStore", size: int) -> list[dist.Store]:
    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(lambda rank: meeting.meet(_store(server), rank, size, LIMIT), range(size)))


def test_an_attempt_sees_its_own_keys_alone() -> None:
    server = _store()
    first = _attempt(server, 3)
    first[2].set("address", "dead")
    assert first[0].get("address") == b"dead"
    server.set(f"{meeting.HELLO}/{server.add(meeting.HELLO, 1)}", "said by one that died then")
    for size in (3, 2, 4):  # elastic jobs come back smaller or larger
        later = _attempt(server, size)
        assert not later[0].check(["address"])
        later[1].set("address", "mine")
        assert [store.get("address") for store in later] == [b"mine"] * size
    assert first[1].get("address") == b"dead"


def test_one_rank_meets_nobody() -> None:
    assert meeting.meet(_store(), 0, 1, LIMIT).check(["anything"]) is False


def test_a_rank_that_never_comes_is_counted() -> None:
    with pytest.raises(RuntimeError, match="timed out: 1 of 2 ranks came"):
        meeting.meet(_store(), 0, 2, timedelta(seconds=0.1))
