"""Errors of collectives that met no answer are told from all others, and a late peer from one that is gone."""

import pytest

from megatron_nmm.device.lost_peer import is_late, lost_peer

LATE = "[/src/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation to complete"
RESET = (
    "[/src/gloo/transport/tcp/pair.cc:544] Read error [127.0.0.1]:35463: Connection reset by peer. This is typically "
    "caused by a remote worker hanging\nmore"
)


@pytest.mark.parametrize(
    ("message", "cause", "late"),
    [
        (LATE, "Timed out waiting 3000ms for recv operation to complete", True),
        (
            "wait timeout after 600000ms, keys: /default_pg/0//1",
            "wait timeout after 600000ms, keys: /default_pg/0//1",
            True,
        ),
        (RESET, "Read error [127.0.0.1]:35463: Connection reset by peer", False),
        ("[x.cc:1] Connection closed by peer [127.0.0.1]:9", "Connection closed by peer [127.0.0.1]:9", False),
        ("NCCL error in: x.cpp:1, remote process exited", "NCCL error in: x.cpp:1, remote process exited", False),
    ],
)
def test_an_error_of_a_collective(message: str, cause: str, late: bool) -> None:
    assert lost_peer(RuntimeError(message)) == cause
    assert is_late(cause) == late


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("all_gather: output tensors must have the sizes of the input"),
        ValueError("Connection closed by peer"),
        KeyboardInterrupt(),
    ],
)
def test_any_other_error(error: BaseException) -> None:
    assert lost_peer(error) is None
