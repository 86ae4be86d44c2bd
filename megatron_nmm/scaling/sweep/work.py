"""What of a study is still to be done, told from its folder: points that stand, checkpoints that are there.

Kept of a run: config.json, metrics, ledger, plots, log. Checkpoints of a trunk go when the last of its branches has
its point; those of branches go, too, unless the models are wanted.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from megatron_nmm.config import RunConfig
from megatron_nmm.config.check import check, check_files
from megatron_nmm.config.fault import config_error
from megatron_nmm.config.io import save, to_dict
from megatron_nmm.errors import ConfigError, DataError
from megatron_nmm.files import durable, lock
from megatron_nmm.scaling import manifest
from megatron_nmm.scaling.point import Point
from megatron_nmm.scaling.sweep.expand import Branch, Trunk
from megatron_nmm.scaling.sweep.outcome import outcome

CHECKPOINTS = "checkpoints"
STATED = "study.json"
LEARNT = ("steps", "seed", "model", "data.train", "optim", "schedule")
"""What makes a run of a study that run."""
SHOWN = 5


@dataclass(frozen=True)
class Job:
    """Runs of one trunk that follow one another."""

    trunk: Trunk
    branches: tuple[Branch, ...]
    """Without a point so far."""
    needs_trunk: bool
    """Whether a checkpoint that one of them begins with is not there."""
    anew: bool = False
    """Whether the trunk has gone past such a checkpoint without keeping it, and has to begin again."""

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        """In their order."""
        return (*((self.trunk.run,) if self.needs_trunk else ()), *(branch.run for branch in self.branches))


def config_file(run: RunConfig) -> Path:
    """What the run is started from."""
    return Path(run.folder) / "run.json"


def check_all(trunks: Sequence[Trunk], processes: int) -> None:
    """Raise ConfigError with what keeps runs from starting."""
    faults = []
    for trunk in trunks:
        found = [(trunk.run, fault) for fault in (*check(trunk.run, processes), *check_files(trunk.run))]
        found += [(branch.run, fault) for branch in trunk.branches for fault in check(branch.run, processes)]
        held_out = [fault for fault in check_files(trunk.branches[0].run) if fault.key.startswith("evaluate.")]
        found += [(trunk.branches[0].run, fault) for fault in held_out]
        faults += [f"{run.name}: {fault}" for run, fault in found]
    if faults:
        more = [f"and {len(faults) - SHOWN} more of the kind"] if len(faults) > SHOWN else []
        raise config_error("the study cannot start", [*faults[:SHOWN], *more])


@contextmanager
def claim(trunks: Sequence[Trunk], output: Path) -> Iterator[None]:
    """Be the only sweep in ``output``, with every run's file written there.

    Raises FolderInUse, and ConfigError where the folder holds another study or cannot be written.
    """
    with ExitStack() as held:
        try:
            output.mkdir(parents=True, exist_ok=True)
            held.enter_context(lock.hold(output))
            _require_same(trunks, output / STATED)
            for run in (run for trunk in trunks for run in (trunk.run, *(branch.run for branch in trunk.branches))):
                save(run, config_file(run))
        except OSError as error:
            raise ConfigError(
                f"{error.filename} cannot be written: {error.strerror}; make room, or name another folder with --output"
            ) from None
        yield


def jobs(trunks: Sequence[Trunk], output: Path) -> list[Job]:
    """One for every trunk that lacks a point."""
    done = {point.run for point in points(output)}
    found = []
    for trunk in trunks:
        if todo := tuple(branch for branch in trunk.branches if branch.run.name not in done):
            found.append(job(trunk, todo))
    return found


def job(trunk: Trunk, todo: tuple[Branch, ...]) -> Job:
    """What is left of ``trunk``."""
    missing = [branch for branch in todo if not can_begin(trunk, branch)]
    newest = max((int(path.name.removeprefix("step-")) for path in _checkpoints(trunk.run)), default=0)
    return Job(trunk, todo, bool(missing), any(branch.start < newest for branch in missing))


def make_ready(job: Job) -> None:
    """Call it before the runs of ``job`` start: a trunk that begins again must not find its old checkpoints."""
    if job.anew:
        shutil.rmtree(Path(job.trunk.run.folder) / CHECKPOINTS)


def can_begin(trunk: Trunk, branch: Branch) -> bool:
    """Whether ``branch`` finds its trunk's checkpoint, or has one of its own to go on from."""
    return _stands(trunk.checkpoint(branch)) or bool(_checkpoints(branch.run))


def points(output: Path) -> tuple[Point, ...]:
    """Those that stand in the study's manifest."""
    path = output / manifest.NAME
    return manifest.read(path).points if path.exists() else ()


def collect(work: Job, output: Path) -> tuple[list[Point], dict[str, str]]:
    """Append the points of finished branches of ``work`` that are not in the manifest.

    Returns them, and run -> why it gives none for branches that ended and have no loss to tell.
    """
    done = {point.run for point in points(output)}
    found, faults = [], {}
    for branch in work.branches:
        try:
            if branch.run.name not in done and (point := outcome(work.trunk, branch)) is not None:
                manifest.append(output / manifest.NAME, point)
                found.append(point)
        except DataError as error:
            faults[branch.run.name] = str(error)
    return found, faults


def clean(trunk: Trunk, output: Path, *, keep_models: bool) -> None:
    """Delete the checkpoints of ``trunk`` that no branch needs any more, and those of finished branches."""
    done = {point.run for point in points(output)}
    ended = [branch for branch in trunk.branches if branch.run.name in done]
    for run in () if keep_models else (branch.run for branch in ended):
        shutil.rmtree(Path(run.folder) / CHECKPOINTS, ignore_errors=True)
    if len(ended) == len(trunk.branches):
        shutil.rmtree(Path(trunk.run.folder) / CHECKPOINTS, ignore_errors=True)


def _checkpoints(run: RunConfig) -> list[Path]:
    return [path for path in (Path(run.folder) / CHECKPOINTS).glob("step-*") if _stands(path)]


def _stands(checkpoint: Path) -> bool:
    return (checkpoint / "manifest.json").is_file()


def _require_same(trunks: Sequence[Trunk], file: Path) -> None:
    """Note what each run learns in ``file``; ConfigError when it says otherwise of a run of that name."""
    stated = json.loads(file.read_text()) if file.exists() else {}
    for trunk in trunks:
        for run in (trunk.run, *(branch.run for branch in trunk.branches)):
            now = _learnt(run)
            before = stated.setdefault(run.name, now)
            if run.name != trunk.run.name and before != now:
                key = next(key for key in LEARNT if before.get(key) != now[key])
                raise ConfigError(
                    f"{file.parent} holds another study: {run.name} had another {key}; name a folder of its own with "
                    "--output, or remove that one"
                )
    durable.replace(file, f"{json.dumps(stated, indent=1)}\n".encode())


def _learnt(run: RunConfig) -> dict[str, object]:
    tree = to_dict(run)
    tree["data.train"] = [
        {"corpus": one["corpus"], "weight": one["weight"], "max_epochs": one["max_epochs"]}
        for one in tree["data"]["train"]
    ]
    return {key: tree[key] for key in LEARNT}
