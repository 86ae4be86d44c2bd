#!/usr/bin/env bash
# Stands for a Python interpreter in tests of tools/setup_env.sh, so that nothing is fetched or installed.
# Its own folder may hold "prelude" (Python run before any code it is given, to change what it seems to be).
# FAKE_REAL: a real Python that runs the code; FAKE_CALLS: file that collects pip's arguments;
# FAKE_PIP_OUTPUT, FAKE_PIP_STATUS, FAKE_PIP_SECONDS: what pip prints, its exit status, how long it takes.

here="$(cd "$(dirname "$0")" && pwd -P)"

run_code() {
    exec "$FAKE_REAL" -I -S -c "
import sys, sysconfig
sys._base_executable = open('$here/base').read().strip()
sysconfig.get_path = lambda kind: '$here/../lib'
exec(open('$here/prelude').read())
exec(sys.argv[1])" "$1"
}

make_venv() {
    rm -rf "$1"
    mkdir -p "$1/bin" "$1/lib"
    cp "$0" "$1/bin/python"
    cp "$here/base" "$here/prelude" "$1/bin/"
    echo "#!$1/bin/python" >"$1/bin/pip"
    chmod +x "$1/bin/pip"
    echo "home = $here" >"$1/pyvenv.cfg"
}

run_pip() {
    echo "$*" >>"$FAKE_CALLS"
    [[ "$1" == install ]] || exit 0
    [[ -z "${FAKE_PIP_SECONDS:-}" ]] || sleep "$FAKE_PIP_SECONDS"
    printf '%b' "${FAKE_PIP_OUTPUT:-}"
    exit "${FAKE_PIP_STATUS:-0}"
}

case "$1 $2" in
    "-c "*) run_code "$2" ;;
    "-m venv") make_venv "${!#}" ;;
    "-m pip") shift 2 && run_pip "$@" ;;
esac
