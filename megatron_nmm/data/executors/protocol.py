"""What every executor promises: each job done once, in any order, with the same bytes wherever it runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from megatron_nmm.data.raw.units import Unit
from megatron_nmm.data.settings import Settings

Report = Callable[[int, int, int], None]
"""Told (number of the job, bytes of its unit done, samples written from it) now and then."""


@dataclass(frozen=True)
class Job:
    """One shard to write."""

    number: int
    """Of the shard in the corpus."""
    unit: Unit
    folder: Path
    """Of the shard; on a cluster every machine must see it under this path."""

    @property
    def name(self) -> str:
        """The unit as messages name it."""
        unit = self.unit
        return f"{unit.input} [{unit.first}:{unit.last}] (shard {self.folder.name})"


class Executor(Protocol):
    """Runs jobs on some machines."""

    name: str

    def run(self, jobs: Sequence[Job], settings: Settings, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, manifest) of each job as it is finished.

        Raises what a job raises (DataError, OSError), DataError when a worker dies; running jobs are stopped then.
        """
        ...
