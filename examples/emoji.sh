#!/usr/bin/env bash
# From two npm packages to a trained batch: fetch emoji and their names, tokenise tars, Parquet and compressed JSONL,
# look at the corpus, train, and ask which samples fed a step. Arguments go to the recipe: --set steps=1000

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
    local data=runs/emoji/data run=runs/emoji/run split
    NMM_EXTRAS=images source tools/setup_env.sh || exit 1

    if [[ ! -e $data/prepared ]]; then
        python examples/data/emoji.py "$data/raw" --packages "$data/packages"
        python tools/train_tokenizer.py --input "$data"/raw/train/{caption,interleaved.parquet,text.jsonl.gz} \
            --vocabulary 8192 --output "$data/tokenizer.model"
        for split in train held_out; do
            tokenise "$data/raw/$split/caption" "$data/$split/caption"
            tokenise "$data/raw/$split/interleaved.parquet" "$data/$split/interleaved"
            tokenise "$data/raw/$split/text.jsonl.gz" "$data/$split/text"
        done
        touch "$data/prepared"
    fi
    python tools/inspect_corpus.py "$data/train/interleaved" --tokenizer "$data/tokenizer.model"

    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun would set it too, with a warning; runs choose their own threads
    torchrun --nproc-per-node 2 examples/emoji.py "$@"
    python tools/blame.py --run "$run" --step 1
}

tokenise() {
    python tools/tokenise.py --input "$1" --tokenizer "$data/tokenizer.model" --image-size 64 --patch 16 --output "$2"
    python tools/pack.py --corpus "$2" --sequence-length 512
}

main "$@"
