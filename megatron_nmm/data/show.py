"""A progress bar with time left over the bytes of one input file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

Tell = Callable[[int, int], None]
"""Takes (bytes read, samples so far)."""


@contextmanager
def reading(path: Path, console: Console) -> Iterator[Tell]:
    """Show how far reading ``path`` is; the bar is full and stays when the block ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[samples]:,} samples"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        total = path.stat().st_size
        task = progress.add_task(path.name, total=total, samples=0)

        def tell(done: int, samples: int) -> None:
            progress.update(task, completed=done, samples=samples)

        yield tell
        progress.update(task, completed=total)
