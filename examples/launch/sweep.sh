#!/usr/bin/env bash
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#
# One task of a scaling study's array: trains the run whose file stands in line N of a list, N being the task's number.
# Tasks are submitted by OUTPUT/slurm/submit.sh, which tools/sweep.py --runner slurm writes.
#
#   sbatch --array=0-14 examples/launch/sweep.sh runs/p1/slurm/trunks.txt
#   SLURM_ARRAY_TASK_ID=3 examples/launch/sweep.sh --dry-run runs/p1/slurm/trunks.txt    prints what the task would run

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}" # Slurm runs a copy of this file from elsewhere

main() {
    local dry=() list run
    [[ "${1:-}" != --dry-run ]] || { dry=(--dry-run) && shift; }
    list=${1:?no list of runs}
    [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]] || { echo "error: this is no task of an array; use sbatch --array=... $0 $list" >&2 && exit 2; }
    run=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$list")
    [[ -n "$run" ]] || { echo "error: $list has no run in line $((SLURM_ARRAY_TASK_ID + 1))" >&2 && exit 2; }
    # exec: Slurm's signal comes to this process, and slurm.sh knows what to do with it.
    exec bash examples/launch/slurm.sh "${dry[@]}" tools/train.py "$run"
}

main "$@"
