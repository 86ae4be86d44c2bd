#!/usr/bin/env bash
# A scaling study on a laptop, from a fresh clone: digits and emoji, sixty models of 0.1 to 3 million active parameters (early
# fusion, late fusion, sparse experts; five sizes, four lengths), their laws and a report. Forty minutes on 2 cores.
# Arguments go to tools/sweep.py: --at-once 1, --only family=early. Interrupted, it goes on where it stopped.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
    local out=runs/scaling/laptop
    NMM_EXTRAS=examples,images,kernels,scaling source tools/setup_env.sh || exit 1
    examples/data/prepare_scaling.sh runs/scaling/data 256
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # each run computes in one thread, two runs at a time
    python tools/sweep.py --study laptop --output "$out" --at-once 2 "$@"
    python tools/fit.py --study "$out"
    python tools/report.py "$out" --name "laptop study"
}

main "$@"
