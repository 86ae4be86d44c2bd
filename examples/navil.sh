#!/usr/bin/env bash
# NaViL's three stages on handwritten digits, from a fresh clone: early fusion stands in for the language model, then
# encoder and visual experts learn beside frozen text, then text attention, then everything. Some minutes on 2 cores.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
    local stage
    NMM_EXTRAS=examples source tools/setup_env.sh || exit 1
    examples/data/prepare_digits.sh runs/digits/data 260 --image-size 32 --patch 16
    examples/data/prepare_digits.sh runs/navil/data 460 --image-rule native --patch 8 --min-patches 4 --max-patches 64 \
        --multi-scale --shuffle 2

    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun would set it too, with a warning; runs choose their own threads
    torchrun --nproc-per-node 2 examples/early_fusion.py
    for stage in s1.1 s1.2 s2; do
        torchrun --nproc-per-node 2 examples/navil.py --preset "digits-$stage"
        python examples/digits_answers.py --run "runs/navil/$stage" --data runs/navil/data/raw
    done
}

main "$@"
