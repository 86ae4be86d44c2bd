#!/usr/bin/env bash
# One node's processes of a job, by torchrun; alone, or as one of several nodes that meet at one address.
#
#   examples/launch/torchrun.sh examples/digits.py --set steps=400                   one node, one process a GPU or core
#   NMM_NODES=2 NMM_MEET=host:29500 examples/launch/torchrun.sh examples/digits.py   the same command on each of two nodes
#   examples/launch/torchrun.sh --dry-run examples/digits.py                         prints the command
#
# NMM_PROCESSES  processes of this node (default auto: one a GPU, without GPUs one a core)
# NMM_RESTARTS   how often the job starts again from its newest checkpoint after a process has died (default 3)
# NMM_JOB        name of the job, the same on all nodes (default nmm)
#
# SIGUSR1 says that the machine is taken back: the run saves and stops, and this script ends with 75, so that its caller
# may queue the job again. SIGTERM saves and stops, too.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
# shellcheck source=examples/launch/environment.sh
source "$HERE/environment.sh"

TAKEN_BACK=75  # as in megatron_nmm/config/refusal.py
SHUTDOWN_S=110 # for a step and a checkpoint; Slurm gives 120 (slurm.sh)

fail() {
    echo "error: $*" >&2
    exit 2
}

compose() {
    local nodes=${NMM_NODES:-1}
    command=(torchrun --nproc-per-node "${NMM_PROCESSES:-auto}" --max-restarts "${NMM_RESTARTS:-3}" --shutdown-timeout "$SHUTDOWN_S")
    if ((nodes == 1)); then
        command+=(--standalone) # a free port of its own: several jobs fit on one machine
    else
        [[ -n "${NMM_MEET:-}" ]] || fail "NMM_NODES is $nodes but NMM_MEET is not set; give the address of one node, such as NMM_MEET=node1:29500"
        command+=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-endpoint "$NMM_MEET" --rdzv-id "${NMM_JOB:-nmm}")
    fi
    command+=("$@")
}

# The training processes are torchrun's children. torchrun itself has no use for the signal.
tell_processes() {
    local children
    children=$(cat "/proc/$torchrun/task/$torchrun/children" 2>/dev/null) || return 0
    # shellcheck disable=SC2086  # one argument a process
    [[ -z "$children" ]] || kill -USR1 $children 2>/dev/null || true
}

supervise() {
    local code=0
    torchrun="" taken_back=""
    trap 'taken_back=yes' USR1
    trap '[[ -z "$torchrun" ]] || kill -TERM "$torchrun" 2>/dev/null || true' TERM
    trap ':' INT # Ctrl-C reaches torchrun as well: wait for what it does
    # Whoever does not catch SIGUSR1 dies of it, unless it is ignored from the start.
    (trap '' USR1 && exec "${command[@]}") &
    torchrun=$!
    while kill -0 "$torchrun" 2>/dev/null; do
        # Said again and again: a process that is just starting does not listen yet.
        [[ -z "$taken_back" ]] || tell_processes
        sleep 1 &
        wait "$!" || true # a signal ends it at once
    done
    wait "$torchrun" || code=$?
    [[ -z "$taken_back" || $code -ne 0 ]] || code=$TAKEN_BACK
    return "$code"
}

main() {
    local dry=""
    [[ "${1:-}" != --dry-run ]] || { dry=yes && shift; }
    (($# > 0)) || fail "no recipe; use $0 [--dry-run] examples/digits.py [--set KEY=VALUE ...]"
    compose "$@"
    if [[ -n "$dry" ]]; then
        printf '%q ' "${command[@]}" && echo
        return 0
    fi
    command -v torchrun >/dev/null || fail "torchrun is not on PATH; run: source tools/setup_env.sh"
    supervise
}

main "$@"
