#!/usr/bin/env bash
# What slurm.sh asks of a cluster, on one machine: called as scontrol, srun or scancel, with two "nodes" on loopback.
set -euo pipefail
case "$(basename "$0")" in
    scontrol)
        if [[ "$1 $2" == "show hostnames" ]]; then
            echo localhost && echo elsewhere
        else
            echo "$*" >>"$FAKE_SLURM/requeued"
        fi
        ;;
    srun)
        echo "$*" >"$FAKE_SLURM/srun"
        while [[ "$1" != bash ]]; do shift; done
        "$@" &
        first=$!
        "$@" &
        echo "$first $!" >"$FAKE_SLURM/tasks"
        one=0 two=0
        wait "$first" || one=$?
        wait "$!" || two=$?
        exit $((one > two ? one : two))
        ;;
    scancel)
        # shellcheck disable=SC2046  # one argument a task
        kill "${1/--signal=/-}" $(cat "$FAKE_SLURM/tasks")
        ;;
esac
