#!/usr/bin/env bash
# Makes .venv at the repository root and installs megatron_nmm into it; does nothing when nothing changed.
#
#   source tools/setup_env.sh                            makes it and puts it first on PATH
#   NMM_EXTRAS=examples,dev source tools/setup_env.sh    with these extras of setup.py (default: examples); "kernels"
#                                                        also builds kernels/, which sparse experts need
#   PYTHON=/path/to/python3.12 source tools/setup_env.sh with this Python
#
# The work runs in a child process, so that no option, function or trap of it reaches the shell that sources this file.
# The stamp .venv/.nmm_setup holds what the last complete set-up was made from; it is removed before anything changes,
# so a set-up that was killed is taken up again by the next one.

if [ -z "${BASH_VERSION:-}" ]; then
    echo "[setup] tools/setup_env.sh is written for bash: start bash, then source it again" >&2
    return 1
fi

if [[ "${BASH_SOURCE[0]}" != "$0" ]]; then
    NMM_EXTRAS="${NMM_EXTRAS:-examples}" bash "${BASH_SOURCE[0]}" || return 1
    VIRTUAL_ENV="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)/.venv" || return 1
    case "$PATH" in
        "$VIRTUAL_ENV/bin:"*) ;;
        *) PATH="$VIRTUAL_ENV/bin:$PATH" ;;
    esac
    export VIRTUAL_ENV PATH
    hash -r
    return 0
fi

set -u -o pipefail

ROOT="$(cd "$(dirname "$0")/.." && pwd -P)"
VENV="$ROOT/.venv"
STAMP="$VENV/.nmm_setup"
LOG="$VENV/setup.log"
TRIED=() # one line per Python that does not fit, shown when none does
FOUND="" # the base interpreter of the first Python that fits
REASON=""

# Run by every candidate, so it must parse on Python 2: prints "fits VERSION BASE", or why it does not fit.
PROBE='
import sys
version = "%d.%d.%d" % sys.version_info[:3]
if sys.version_info[:2] < (3, 12):
    print("is Python %s" % version)
else:
    try:
        import ensurepip, venv
        print("fits %s %s" % (version, getattr(sys, "_base_executable", "") or sys.executable))
    except ImportError as error:
        print("is Python %s without its venv part (%s)" % (version, error))
'

# Forgets the packages whose files are not all there, as a killed pip leaves them, so that pip installs them anew.
FORGET_INCOMPLETE='
import csv, importlib.metadata, pathlib, shutil, sysconfig
folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
for folder in folders:
    for leftover in pathlib.Path(folder).glob("~*"):
        shutil.rmtree(leftover, ignore_errors=True)
for package in importlib.metadata.distributions(path=list(folders)):
    # Not package.files: it leaves the missing ones out.
    record = package.read_text("RECORD") or ""
    names = [row[0] for row in csv.reader(record.splitlines()) if row and not row[0].endswith(".pyc")]
    if package._path.suffix == ".dist-info" and not (names and all(package.locate_file(n).exists() for n in names)):
        print("[setup] incomplete since an earlier set-up, installed again:", package._path.name)
        shutil.rmtree(package._path)
'

say() { printf '[setup] %s\n' "$*"; }

fail() {
    printf '\n[setup] %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '        %s\n' "$@" >&2
    exit 1
}

# --- which Python ---------------------------------------------------------------------------------------------------

# probe CANDIDATE: runs it; sets FOUND and returns 0 when it fits, else leaves why not in REASON.
probe() {
    local answer
    command -v "$1" >/dev/null 2>&1 || { REASON="is not there"; return 1; }
    if ! answer="$("$1" -c "$PROBE" 2>/dev/null)"; then
        answer="$("$1" -c "$PROBE" 2>&1 >/dev/null)"
        REASON="is there but does not run: ${answer%%$'\n'*}"
        return 1
    fi
    if [[ "$answer" != fits\ * ]]; then
        REASON="$answer"
        return 1
    fi
    FOUND="${answer#fits * }"
}

try() {
    probe "$1" && return 0
    TRIED+=("$1 $REASON")
    return 1
}

# Interpreters in pyenv's folder: the tested 3.12 first, then newer ones; newest patch release first within each.
pyenv_pythons() {
    local versions="${PYENV_ROOT:-${HOME:-}/.pyenv}/versions" series path
    for series in 12 13 14 15; do
        for path in "$versions/3.$series".*/bin/python; do
            [[ -x "$path" ]] && printf '%s\n' "$path"
        done | sort -rV
    done
}

uv_python() {
    command -v uv >/dev/null 2>&1 || return 1
    uv python find --no-project '>=3.12' 2>/dev/null && return 0
    say "uv fetches Python 3.12 ..." >&2
    uv python install 3.12 >&2 && uv python find --no-project 3.12
}

choose_python() {
    local candidate
    if [[ -n "${PYTHON:-}" ]]; then
        try "$PYTHON" && return 0
        say "PYTHON=$PYTHON $REASON; looking for another"
    fi
    for candidate in python3.13 python3.12 python3; do
        try "$candidate" && return 0
    done
    while IFS= read -r candidate; do
        try "$candidate" && return 0
    done < <(pyenv_pythons)
    candidate="$(uv_python)" && try "$candidate" && return 0
    fail "no suitable Python: megatron_nmm needs Python 3.12 or newer, with its venv part. Tried:" \
        "${TRIED[@]/#/  }" \
        "Do one of these, then run the same command again:" \
        "  Debian, Ubuntu   apt install python3.12 python3.12-venv" \
        "  pyenv            pyenv install 3.12" \
        "  uv               uv python install 3.12" \
        "  another place    PYTHON=/path/to/python3.12 in front of the command"
}

# --- the virtual environment ----------------------------------------------------------------------------------------

base_of_venv() { "$VENV/bin/python" -c "$PROBE" 2>/dev/null | sed -n 's/^fits [^ ]* //p'; }

# Console scripts carry the absolute path of the environment they were made in.
made_here() { head -n 3 "$VENV/bin/pip" 2>/dev/null | grep -qF "$VENV/bin/"; }

# Prints why .venv cannot be kept; prints nothing when it can.
venv_fault() {
    local base
    if [[ ! -d "$VENV" ]]; then
        echo "there is none yet"
    elif [[ ! -x "$VENV/bin/pip" ]]; then
        echo "it was left half made"
    elif ! base="$(base_of_venv)" || [[ -z "$base" ]]; then
        echo "its Python does not run or is older than 3.12"
    elif ! made_here; then
        echo "it was made in another folder"
    elif [[ -n "${PYTHON:-}" ]] && probe "$PYTHON" && [[ "$FOUND" != "$base" ]]; then
        echo "it was made with $base and PYTHON asks for $FOUND"
    fi
}

make_venv() {
    if [[ -d "$VENV" && ! -e "$VENV/pyvenv.cfg" && -n "$(find "$VENV" -type f -print -quit)" ]]; then
        fail "$VENV holds files but is no virtual environment." "Move it away, then run the same command again."
    fi
    choose_python
    say "making .venv with $FOUND"
    "$FOUND" -m venv --clear "$VENV" || fail "$FOUND could not make $VENV (its reason is above)." \
        "Check that the folder can be written and the disk is not full, or name another Python with PYTHON=..."
}

# --- packages -------------------------------------------------------------------------------------------------------

# Shows the large downloads and the final step out of pip's many lines, with the seconds so far.
progress() {
    local line
    while IFS= read -r line; do
        case "$line" in
            *"Downloading "*" MB)"*) say "$((SECONDS - STARTED)) s: ${line#"${line%%[![:space:]]*}"}" ;;
            "Installing collected packages"*) say "$((SECONDS - STARTED)) s: installing (the longest step)" ;;
            *"No space left on device"*) say "$((SECONDS - STARTED)) s: the disk is full" ;;
            *"Retrying (Retry(total="*) say "$((SECONDS - STARTED)) s: the network does not answer, pip tries again" ;;
        esac
    done
}

pip_failed() {
    local cause="pip could not install the packages." remedy="The whole output is in $LOG; run the same command again to continue."
    if grep -qiE 'No space left' "$LOG"; then
        cause="the disk is full: the packages need about 6 GB in $VENV, and room in ${TMPDIR:-/tmp}."
    elif grep -qE 'Retrying \(Retry|ConnectionError|NameResolution|ProxyError|ReadTimeout|SSLError' "$LOG"; then
        cause="pip did not reach the package index: set-up needs the network once."
        remedy="Check the connection (or PIP_INDEX_URL, HTTPS_PROXY), then run the same command again."
    fi
    fail "$cause" "$(grep -E '^ *(ERROR|error):' "$LOG" | head -n 3)" "$remedy"
}

wants() { [[ ",$EXTRAS," == *",$1,"* ]]; }

# After torch, whose headers the kernels are compiled against. Without a compiler the plain PyTorch versions serve.
install_kernels() {
    say "building nmm_kernels with the compilers that are here (about a minute where nvcc is one of them)"
    "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --no-deps --editable "$ROOT/kernels" \
        >>"$LOG" 2>&1 || pip_failed
}

install() {
    STARTED=$SECONDS
    "$VENV/bin/python" -c "$FORGET_INCOMPLETE" || fail "the packages in $VENV cannot be listed." "Delete it and run again."
    say "installing megatron_nmm[$EXTRAS] under constraints.txt (the first time: about 3 GB to fetch, 6 GB on disk)"
    # --no-compile: half a minute of compiling 10,000 modules, of which a run imports a third, once, by itself.
    PIP_USER=0 PYTHONUNBUFFERED=1 "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input \
        --no-compile --constraint "$ROOT/constraints.txt" --editable "${ROOT}[$EXTRAS]" 2>&1 | tee "$LOG" | progress
    ((PIPESTATUS[0] == 0)) || pip_failed
    wants kernels && install_kernels
    # megatron-core's sources draw syntax warnings when compiled; nobody should meet them in a first run.
    "$VENV/bin/python" -W ignore -m compileall -qq "$VENV"/lib/python*/site-packages/megatron
    say "ready after $((SECONDS - STARTED)) s"
}

# --- is there anything to do ----------------------------------------------------------------------------------------

wanted() {
    printf 'extras=%s\n' "$EXTRAS" && cat "$ROOT/setup.py" "$ROOT/constraints.txt"
    wants kernels && find "$ROOT/kernels" \( -name '*.cu*' -o -name '*.cpp' -o -name '*.h' -o -name 'build.py' \
        -o -name 'setup.py' \) -not -path '*/build/*' -exec cksum {} + | sort -k3
    return 0
}

# Extras of the last complete set-up are kept, so that callers with different extras do not undo one another.
resolve_extras() {
    local before=""
    [[ -r "$STAMP" ]] && before="$(sed -n '1s/^extras=//p' "$STAMP")"
    EXTRAS="$(printf '%s' "$before,${NMM_EXTRAS:-examples}" | tr ',' '\n' | sed '/^$/d' | sort -u | paste -sd, -)"
}

up_to_date() { resolve_extras && [[ -r "$STAMP" ]] && [[ "$(cat "$STAMP")" == "$(wanted)" ]] && [[ -z "$(venv_fault)" ]]; }

# Two set-ups in one folder would undo each other: the second waits for the first. The lock is on this file itself.
lock() {
    command -v flock >/dev/null 2>&1 || return 0
    exec 9<"$0"
    flock --nonblock 9 || { say "another set-up is running in this folder; waiting for it" && flock 9; }
}

main() {
    local fault
    up_to_date && return 0
    lock
    up_to_date && return 0
    rm -f "$STAMP"
    fault="$(venv_fault)"
    [[ -n "$fault" ]] || "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || fault="its pip does not run"
    if [[ -n "$fault" ]]; then
        [[ -d "$VENV" ]] && say ".venv is made again: $fault"
        make_venv
    fi
    install
    if ! { wanted >"$STAMP.part" && mv "$STAMP.part" "$STAMP"; }; then
        fail "$STAMP could not be written." "Check that the disk is not full, then run the same command again."
    fi
}

main
