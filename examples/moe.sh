#!/usr/bin/env bash
# Sparse experts on handwritten digits, from a fresh clone: set-up with the kernels, data, training with the experts
# spread over two processes, answers, and pictures of who goes where. Arguments go to examples/moe.py.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
    NMM_EXTRAS=examples,kernels source tools/setup_env.sh || exit 1
    examples/data/prepare_digits.sh runs/digits/data 260 --image-size 32 --patch 16
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun would set it too, with a warning; runs choose their own threads
    torchrun --nproc-per-node 2 examples/moe.py "$@"
    python examples/digits_answers.py --run runs/moe/run --data runs/digits/data/raw
    echo "who goes where: runs/moe/run/routing.png"
}

main "$@"
