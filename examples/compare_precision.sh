#!/usr/bin/env bash
# The digits model in bf16 and under each recipe of 8 bits, emulated where there is no such GPU, from a fresh clone: loss
# curves in one picture, and which products lose values to underflow and overflow. Arguments go to the recipe, e.g.
#   examples/compare_precision.sh --set steps=100

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RECIPES=(plain fp8_delayed fp8_current fp8_blockwise mxfp8)

main() {
    local recipe runs=()
    NMM_EXTRAS=examples source tools/setup_env.sh || exit 1
    examples/data/prepare_digits.sh runs/digits/data 260 --image-size 32 --patch 16
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun would set it too, with a warning; runs choose their own threads
    for recipe in "${RECIPES[@]}"; do
        runs+=("runs/precision/$recipe")
        # Done runs say so and are kept; the seed, and so the first weights and every batch, is the same for all.
        torchrun --nproc-per-node 2 examples/digits.py --set "precision.recipe=$recipe" --set precision.emulate=true \
            --set "name=$recipe" --set "folder=runs/precision/$recipe" --set journal.telemetry=10 "$@"
    done
    python tools/compare_precision.py "${runs[@]}" --output runs/precision/casts.png
}

main "$@"
