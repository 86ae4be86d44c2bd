"""What a data tool shows: a progress bar over the bytes it reads, and the first things it rejected."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

Tell = Callable[[int, int], None]
"""Takes (bytes read, samples so far)."""
SHOWN_REJECTIONS = 5


@contextmanager
def reading(what: str, total: int, console: Console) -> Iterator[Tell]:
    """Show how much of the ``total`` bytes of ``what`` is read; the bar is full and stays when the block ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[samples]:,} samples"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, samples=0)

        def tell(done: int, samples: int) -> None:
            progress.update(task, completed=done, samples=samples)

        yield tell
        progress.update(task, completed=total)


def rejections(lines: Iterable[str], total: int, where: str) -> Iterator[str]:
    """The first ``lines``, one per rejected thing, and how many of ``total`` more stand in ``where``."""
    for line in islice(lines, SHOWN_REJECTIONS):
        yield f"  rejected {line}"
    if total > SHOWN_REJECTIONS:
        yield f"  ... and {total - SHOWN_REJECTIONS:,} more in {where}"
