"""Writes what a cluster runs a study with: lists of runs for Slurm's arrays and one script that submits them, or a file
of torchrun command lines."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from megatron_nmm.errors import ConfigError
from megatron_nmm.files import durable
from megatron_nmm.scaling.sweep.work import Job, config_file

ARRAY = "examples/launch/sweep.sh"
TORCHRUN = "examples/launch/torchrun.sh tools/train.py"

SUBMIT = """#!/usr/bin/env bash
# Submits what is left of study {name}: trunks, the branches of each once it has ended well, the collection of points.
# Run it from the repository's root; arguments go to every sbatch, such as --nodes 4 --partition=batch.
# Where a cluster has no aftercorr, submit the branches' arrays once the trunks' has ended.

set -euo pipefail

jobs=()
{lines}
collect={collect}
sbatch --parsable --job-name={name}-points --dependency="afterany$(printf ':%s' "${{jobs[@]}}")" \\
    --output={logs}/points-%j.log --wrap "$collect"
"""


def write_slurm(jobs: Sequence[Job], output: Path, collect: Sequence[str]) -> Path:
    """The script to submit; beside it ``trunks.txt`` and ``branches-K.txt``, line N for task N of an array.

    Task N of a branches' array waits for task N of the trunks' (aftercorr), and for none where its trunk has ended.
    ``collect`` is the command that appends the points. Raises ConfigError when the folder cannot be written.
    """
    folder, name = output / "slurm", jobs[0].trunk.study
    trunks = {n: str(config_file(job.trunk.run)) for n, job in enumerate(jobs) if job.needs_trunk}
    arrays = [("trunks", trunks, False)]
    for rank in range(max(len(job.branches) for job in jobs)):
        for waits in (True, False):
            tasks = {
                n: str(config_file(job.branches[rank].run))
                for n, job in enumerate(jobs)
                if rank < len(job.branches) and job.needs_trunk is waits
            }
            arrays.append((f"branches-{rank}" if waits else f"ready-{rank}", tasks, waits))
    lines = []
    for label, tasks, waits in arrays:
        if tasks:
            listed = folder / f"{label}.txt"
            _write(listed, (tasks.get(n, "") for n in range(len(jobs))))
            depends = ' --dependency="aftercorr:$trunks"' if waits else ""
            options = f"--job-name={name}-{label} --array={','.join(map(str, tasks))}{depends}"
            logs = shlex.quote(f"{output}/logs/{label}-%A_%a.log")
            holder = "trunks" if label == "trunks" else "branches"
            lines.append(
                f'{holder}=$(sbatch --parsable "$@" {options} --output={logs} {ARRAY} {shlex.quote(str(listed))})'
            )
            lines.append(f'jobs+=("${holder}")')
    text = SUBMIT.format(
        name=name, lines="\n".join(lines), collect=shlex.quote(shlex.join(collect)), logs=shlex.quote(f"{output}/logs")
    )
    (output / "logs").mkdir(parents=True, exist_ok=True)
    return _write(folder / "submit.sh", [text.rstrip("\n")])


def write_torchrun(jobs: Sequence[Job], output: Path, processes: int, collect: Sequence[str]) -> Path:
    """A file of commands, one line a trunk with its branches; they may run anywhere, the last line last."""
    lines = ["#!/usr/bin/env bash", "set -euo pipefail", f"export NMM_PROCESSES=${{NMM_PROCESSES:-{processes}}}"]
    lines += [f"{TORCHRUN} {shlex.join(str(config_file(run)) for run in job.runs)}" for job in jobs]
    return _write(output / "commands.sh", [*lines, shlex.join(collect)])


def _write(file: Path, lines: Iterable[str]) -> Path:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(file, "".join(f"{line}\n" for line in lines).encode())
        if file.suffix == ".sh":
            file.chmod(0o755)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}; make room or use another --output") from None
    return file
