#!/usr/bin/env bash
# Handwritten digits from nothing to packed corpora: images and records, a tokenizer, tokenise, pack; done once.
#   examples/data/prepare_digits.sh OUT SEQUENCE_LENGTH TOKENISE_OPTIONS...
# Run it inside the environment of tools/setup_env.sh. The options say what becomes of an image; a finished OUT is kept.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

main() {
    local out=$1 length=$2 split kind
    shift 2
    [[ -e $out/prepared ]] && return
    python examples/data/digits.py "$out/raw"
    python tools/train_tokenizer.py --input "$out"/raw/train/{caption,interleaved,text}.jsonl \
        --vocabulary 384 --output "$out/tokenizer.model"
    for split in train held_out; do
        for kind in caption interleaved text; do
            python tools/tokenise.py --input "$out/raw/$split/$kind.jsonl" --images "$out/raw" \
                --tokenizer "$out/tokenizer.model" --source "$kind" --output "$out/$split/$kind" "$@"
            python tools/pack.py --corpus "$out/$split/$kind" --sequence-length "$length"
        done
    done
    touch "$out/prepared"
}

(($# >= 2)) || { echo "usage: $0 OUT SEQUENCE_LENGTH TOKENISE_OPTIONS..." >&2; exit 2; }
main "$@"
