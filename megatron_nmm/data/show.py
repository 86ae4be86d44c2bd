"""What a data tool shows: a progress bar over the bytes it reads, and the first things it rejected."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN_REJECTIONS = 5


class Tell(Protocol):
    """Takes how far the reading is."""

    def __call__(self, done: int, samples: int, total: int | None = None) -> None:
        """Bytes read and samples so far; ``total`` bytes, where they were not known before or have changed."""
        ...


@contextmanager
def reading(what: str, total: int | None, console: Console) -> Iterator[Tell]:
    """Show how much of the ``total`` bytes of ``what`` is read; the bar is full and stays when the block ends.

    ``total`` None: told later.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[samples]:,} samples"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, samples=0)

        def tell(done: int, samples: int, total: int | None = None) -> None:
            progress.update(task, completed=done, samples=samples, total=total)

        yield tell
        progress.update(task, completed=progress.tasks[0].total)


def rejections(lines: Iterable[str], total: int, where: str) -> Iterator[str]:
    """The first ``lines``, one per rejected thing, and how many of ``total`` more stand in ``where``."""
    for line in islice(lines, SHOWN_REJECTIONS):
        yield f"  rejected {line}"
    if total > SHOWN_REJECTIONS:
        yield f"  ... and {total - SHOWN_REJECTIONS:,} more in {where}"
