#!/usr/bin/env bash
# From a fresh clone to a model that reads digits: set-up, real data, training on two processes, answers, a plot.
# Arguments go to the recipe: ./examples/quickstart.sh --set parallel.tensor=1   (data parallel 2)
#                             ./examples/quickstart.sh --set parallel.tensor=1 --set parallel.pipeline=2

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The work stands in a function so that bash has read all of it before the first command runs.
main() {
    local began=$SECONDS data=runs/digits/data run=runs/digits/run
    NMM_EXTRAS=examples source tools/setup_env.sh || exit 1
    say "set up in $((SECONDS - began)) s; everything below needs no network"

    began=$SECONDS
    # 20 sums of 13 tokens a row: an image of 32 x 32 pixels is four patches.
    examples/data/prepare_digits.sh "$data" 260 --image-size 32 --patch 16
    say "data ready in $((SECONDS - began)) s: $data"

    began=$SECONDS
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun would set it too, with a warning; runs choose their own threads
    torchrun --nproc-per-node 2 examples/digits.py "$@"
    say "trained in $((SECONDS - began)) s"

    python examples/digits_answers.py --run "$run" --data "$data/raw"
    say "next, the same model by pipeline parallelism:"
    echo "  torchrun --nproc-per-node 2 examples/digits.py --set parallel.tensor=1 --set parallel.pipeline=2 --set folder=runs/digits/pipeline"
}

say() { printf '\n[quickstart] %s\n' "$*"; }

main "$@"
