#!/usr/bin/env bash
# Early fusion, late fusion and modality experts on handwritten digits at equal training FLOPs, from a fresh clone: held-out
# loss, answers, memory and time per step as a table and a picture. Arguments go to tools/compare.py: --flops 1e13

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
    NMM_EXTRAS=examples source tools/setup_env.sh || exit 1
    examples/data/prepare_digits.sh runs/digits/data 260 --image-size 32 --patch 16
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun would set it too, with a warning; runs choose their own threads
    python tools/compare.py early=examples/early_fusion.py late=examples/late_fusion.py \
        "ffn-experts=examples/early_fusion.py model.modality_experts=ffn" \
        "all-experts=examples/early_fusion.py model.modality_experts=all" --output runs/compare \
        --after "python examples/digits_answers.py --run {folder} --data runs/digits/data/raw" "$@"
}

main "$@"
