"""A tool's main function on the ranks of a worker pool, as torchrun would start it."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

import pytest

from megatron_nmm.parallel.world import World
from megatron_nmm.verify.workers import Place

Said = tuple[int, str, str]
"""Exit code, stdout, stderr."""


def said(place: Place, main: Callable[[list[str]], int], arguments: list[str]) -> Said:
    """What one rank of several says; its World is that of the place."""
    start = World.start

    def join(parallel, device, seed, threads=0):  # type: ignore[no-untyped-def]
        store = f"file://{place.store}-tool"
        return World.join(parallel, device, seed, rank=place.rank, size=place.size, init_method=store)

    World.start = staticmethod(join)  # type: ignore[method-assign,assignment]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WORLD_SIZE", str(place.size))
            patch.setenv("RANK", str(place.rank))
            return alone(place, main, arguments)
    finally:
        World.start = start  # type: ignore[method-assign]


def alone(place: Place, main: Callable[[list[str]], int], arguments: list[str]) -> Said:
    """What a process says that nobody told of others."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        code = main(arguments)
    return code, out.getvalue(), errors.getvalue()
