"""Runs jobs on a Ray cluster through Ray Data: one that is running, or one that is started here for the purpose.

Every machine of the cluster must see the inputs, the images, the tokenizer and the output under the same paths.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any, cast

from megatron_nmm.data.executors.protocol import Job, Report
from megatron_nmm.data.settings import Settings
from megatron_nmm.errors import ConfigError, DataError, NMMError

QUIET = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment of a cluster that is started here; what the user has set stays."""


class RayExecutor:
    """At most ``workers`` actors with one CPU each."""

    name = "ray"

    def __init__(self, workers: int, address: str | None = None) -> None:
        """``address``: of the cluster (as ``ray.init`` takes it); None = the one RAY_ADDRESS names, else a local one.

        Raises ConfigError when Ray is not installed.
        """
        if find_spec("ray") is None:
            raise ConfigError("--executor ray needs Ray, which is not installed; run: pip install -e .[ray]")
        self._workers = workers
        self._address = address

    def run(self, jobs: Sequence[Job], settings: Settings, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, manifest) of each job as it is finished; progress is told by whole jobs."""
        import ray

        if not jobs:
            return
        started = not ray.is_initialized()
        if started:
            self._connect()
        sizes = {job.number: job.unit.bytes for job in jobs}
        try:
            for row in _rows(jobs, settings, self._workers):
                if row["fault"]:
                    raise DataError(row["fault"])
                number, manifest = int(row["number"]), json.loads(row["manifest"])
                report(number, sizes[number], manifest["counts"]["samples"])
                yield number, manifest
        except ray.exceptions.RayError as error:
            raise DataError(
                f"the Ray cluster gave up: {error}; finished shards are kept, "
                "the same command continues without redoing them"
            ) from error
        finally:
            if started:
                ray.shutdown()

    def _connect(self) -> None:
        import ray

        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        local = self._address is None and not os.environ.get("RAY_ADDRESS")
        # A local cluster is told its size: Ray would otherwise count the CPUs of the machine, not those we may use.
        own: dict[str, Any] = {"num_cpus": self._workers + 1, "include_dashboard": False} if local else {}
        ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR, **own)


def _rows(jobs: Sequence[Job], settings: Settings, workers: int) -> Iterator[dict[str, Any]]:
    """One row per finished job: its number, its manifest as JSON, or what was at fault."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = [{"index": index} for index in range(len(jobs))]
    finished = ray.data.from_items(items, override_num_blocks=len(items)).map(
        cast(Any, _Writer),
        fn_constructor_args=(list(jobs), settings),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(jobs))),
        num_cpus=1,
    )
    yield from finished.iter_rows()


class _Writer:
    """An actor that writes shards; the tokenizer is opened once."""

    def __init__(self, jobs: list[Job], settings: Settings) -> None:
        self._jobs = jobs
        self._settings = settings

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from megatron_nmm.data.shard import write_shard

        job = self._jobs[int(row["index"])]
        try:
            manifest = write_shard(job.unit, job.folder, self._settings, lambda done, samples: 1)
        except NMMError as error:
            return {"number": job.number, "manifest": "", "fault": str(error)}
        except OSError as error:
            return {"number": job.number, "manifest": "", "fault": f"{job.name}: {error.strerror or error}"}
        return {"number": job.number, "manifest": json.dumps(manifest), "fault": ""}
