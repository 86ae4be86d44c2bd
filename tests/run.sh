#!/usr/bin/env bash
# Runs everything a change must pass: set-up, lint, types, tests. Arguments go to pytest: ./tests/run.sh tests/data -k pack
# Every stage runs even when an earlier one failed, so one run shows all there is to mend; the exit status is 1 then.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
trap 'exit 130' INT
# Where compiled modules are not kept, each of the hundred processes below compiles torch anew: 7 of 12 s of its imports.
unset PYTHONDONTWRITEBYTECODE

began=$SECONDS
NMM_EXTRAS=examples,images,dali,ray,scaling,bench,dev,kernels source tools/setup_env.sh || exit 1
times="set-up $((SECONDS - began)) s"
failed=""

# stage NAME COMMAND...: runs the command, prints and keeps how long it took and whether it failed.
stage() {
    local name="$1" from=$SECONDS verdict="ok"
    shift
    printf '\n[tests] %s\n' "$name"
    "$@" || { verdict="FAILED"; failed+="${failed:+, }$name"; }
    printf '[tests] %s: %s, %s s\n' "$name" "$verdict" "$((SECONDS - from))"
    times+=", $name $((SECONDS - from)) s"
}

lint() {
    local status=0 scripts
    mapfile -t scripts < <(find . -name '*.sh' -not -path './.venv/*' -not -path './build/*' -not -path './runs/*')
    ruff format --check --quiet . || { status=1; echo "ruff format changes the files above; run: ruff format ."; }
    ruff check --quiet . || status=1
    shellcheck --external-sources "${scripts[@]}" .ci/run || status=1
    return "$status"
}

stage lint lint
stage types mypy
# Two processes, each with its own files: most tests keep one core busy. Later arguments win: -n 0 is one process.
# One thread each, but where a test asks for more: on tiny tensors threads that wait for a core cost more than they save
# (tests/hf on two cores: 82 s, and 20 s so).
stage pytest env OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" python -m pytest --numprocesses 2 --dist loadfile "$@"

if [[ -n "$failed" ]]; then
    printf '\n[tests] FAILED: %s (%s)\n' "$failed" "$times"
    exit 1
fi
printf '\n[tests] all passed (%s)\n' "$times"
