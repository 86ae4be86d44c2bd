#!/usr/bin/env bash
# Handwritten digits and emoji in six languages as one mixture: a tokenizer of both, each kind of each tokenised and packed,
# and three held-out streams (caption, interleaved, text) in which both stand; done once.
#   examples/data/prepare_scaling.sh OUT SEQUENCE_LENGTH
# Run it inside the environment of tools/setup_env.sh, with npm for the emoji. A finished OUT is kept.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

main() {
    local out=$1 length=$2 split raw=$1/raw
    [[ -e $out/prepared ]] && return
    python examples/data/digits.py "$raw/digits" --pairs 4000 --held-out-pairs 200
    python examples/data/emoji.py "$raw/emoji" --packages "$out/packages" --languages en de es fr it pt --translate
    python tools/train_tokenizer.py --vocabulary 1024 --output "$out/tokenizer.model" \
        --input "$raw"/digits/train/{caption,interleaved,text}.jsonl "$raw"/emoji/train/{caption,interleaved.parquet,text.jsonl.gz}
    for split in train held_out; do
        corpus "$split/caption" "$raw/digits/$split/caption.jsonl" "$raw/emoji/$split/caption"
        corpus "$split/interleaved" "$raw/digits/$split/interleaved.jsonl" "$raw/emoji/$split/interleaved.parquet"
        corpus "$split/text" "$raw/digits/$split/text.jsonl" "$raw/emoji/$split/text.jsonl.gz"
    done
    touch "$out/prepared"
}

# corpus NAME INPUT...: an image of 32 x 32 pixels is sixteen patches.
corpus() {
    local name=$1
    shift
    python tools/tokenise.py --input "$@" --images "$raw/digits" --tokenizer "$out/tokenizer.model" \
        --image-size 32 --patch 8 --source "${name#*/}" --output "$out/$name"
    python tools/pack.py --corpus "$out/$name" --sequence-length "$length"
}

(($# == 2)) || { echo "usage: $0 OUT SEQUENCE_LENGTH" >&2; exit 2; }
main "$@"
