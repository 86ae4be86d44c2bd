#!/usr/bin/env bash
#SBATCH --job-name=megatron_nmm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/%x-%j.log
#
# Many nodes by Slurm: one torchrun.sh a node. Submit it from the repository's root, with runs/ there:
#
#   sbatch --nodes 16 examples/launch/slurm.sh examples/navil.py --preset 2b-s2
#   CONTAINER=nmm.sqsh sbatch examples/launch/slurm.sh ...                       in a container, by pyxis and enroot
#   CONTAINER=nmm.sif RUNTIME=apptainer sbatch examples/launch/slurm.sh ...      by apptainer
#   examples/launch/slurm.sh --dry-run ...                                       prints what each step would run
#
# Two minutes before the time is up, or the nodes are preempted, Slurm sends SIGUSR1 to this script (--signal=B:USR1@120).
# It passes it on, the run saves and ends, and the job goes back into the queue; the same job continues from its newest
# checkpoint. A node that fails puts the job back, too (--requeue), and its log goes on in the same file (--open-mode).

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}" # Slurm runs a copy of this file from elsewhere

TAKEN_BACK=75 # as torchrun.sh ends then

# Where the nodes meet: the first of them, at a port that other jobs do not use.
meet() {
    local hosts
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    NMM_NODES=$SLURM_JOB_NUM_NODES
    NMM_MEET="${hosts%%$'\n'*}:$((20000 + SLURM_JOB_ID % 20000))"
    NMM_JOB=$SLURM_JOB_ID
}

compose() {
    # One rank that ends badly ends the job: nobody waits for it. --export: the step sees this script's environment.
    command=(srun --nodes "$NMM_NODES" --ntasks "$NMM_NODES" --kill-on-bad-exit=1 --export=ALL)
    case "${CONTAINER:+${RUNTIME:-pyxis}}" in
        "") ;;
        pyxis) command+=(--container-image "$CONTAINER" --container-mounts "$PWD:$PWD" --container-workdir "$PWD") ;;
        apptainer) command+=(apptainer exec --nv --bind "$PWD" --pwd "$PWD" "$CONTAINER") ;;
        *) echo "error: RUNTIME $RUNTIME is unknown; use pyxis or apptainer" >&2 && exit 2 ;;
    esac
    command+=(bash examples/launch/torchrun.sh "$@")
}

main() {
    if [[ "${1:-}" == --dry-run ]]; then
        shift
        NMM_NODES=${SLURM_JOB_NUM_NODES:-2} NMM_MEET=FIRST_NODE:20000 NMM_JOB=JOB
        export NMM_NODES NMM_MEET NMM_JOB
        compose "$@"
        printf '%q ' "${command[@]}" && echo
        bash examples/launch/torchrun.sh --dry-run "$@"
        return 0
    fi
    [[ -n "${SLURM_JOB_ID:-}" ]] || { echo "error: this is no Slurm job; use sbatch $0, or $0 --dry-run" >&2 && exit 2; }
    meet
    export NMM_NODES NMM_MEET NMM_JOB NMM_PROCESSES=${NMM_PROCESSES:-${SLURM_GPUS_ON_NODE:-auto}}
    compose "$@"

    local step taken_back="" code=0
    # Without --batch scancel signals the steps, not this script again.
    trap 'taken_back=yes; scancel --signal=USR1 "$SLURM_JOB_ID" || true' USR1
    "${command[@]}" &
    step=$!
    while kill -0 "$step" 2>/dev/null; do
        wait "$step" || true # until it ends, or the signal comes
    done
    wait "$step" || code=$?
    # Of nodes that end one after the other, srun kills the later ones and gives their code.
    if ((code == TAKEN_BACK)) || [[ -n "$taken_back" ]]; then
        echo "stopped; back into the queue as job $SLURM_JOB_ID"
        scontrol requeue "$SLURM_JOB_ID"
        return 0
    fi
    return "$code"
}

main "$@"
