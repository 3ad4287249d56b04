#!/bin/sh
# Install Forethought into an environment: docker/install.sh core|engine|tools
#
#   core     make the environment if there is none, and install what serving other engines needs
#   engine   the same, with vLLM
#   tools    add what tests and checks need
#
# Used by the Makefile and the images. VENV names the environment (.venv), PYTHON the interpreter
# that makes it (python3), ENGINE the build of vLLM (gpu where nvidia-smi works, else cpu). Stopping
# it anywhere and starting it again ends well: an environment whose installation was interrupted is
# made anew (pip's cache keeps what was downloaded).
set -eu

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
UNFINISHED=$VENV/.unfinished
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    echo "forethought: $*" >&2
    exit 1
}

check_python() {
    command -v "$PYTHON" >/dev/null || fail "$PYTHON not found: install Python 3.11 or newer."
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$PYTHON" --version) is too old: name Python 3.11 or newer by PYTHON=…"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -qqy --no-install-recommends python3-venv
    fi
    "$PYTHON" -c 'import ensurepip, venv' ||
        fail "$PYTHON cannot make environments: install its venv module (Debian: python3-venv)."
}

# An ordinary failure of pip (no network, say) leaves the environment whole, so it is kept; being
# interrupted does not.
run_pip() {
    status=0
    "$VENV/bin/pip" "$@" || status=$?
    [ "$status" = 0 ] && return
    [ "$status" -gt 2 ] || rm -f "$UNFINISHED"
    exit "$status"
}

engine_of_this_machine() {
    if nvidia-smi >/dev/null 2>&1; then echo gpu; else echo cpu; fi
}

install_engine() {
    if [ "${ENGINE:-$(engine_of_this_machine)}" = gpu ]; then
        run_pip install -e '.[gpu]'
    else
        # torch by itself first: the build without CUDA then satisfies what vLLM asks for.
        run_pip install torch==2.13.0
        run_pip install -e '.[cpu]'
        # vLLM pulls these in, built for another torch: with them, importing any transformers model
        # fails ("operator torchvision::nms does not exist"). Nothing here needs them.
        run_pip uninstall -qy torchvision torchaudio torchcodec
    fi
    echo "Checking that the engine can be imported"
    "$VENV/bin/python" -c 'import vllm; from transformers import LlamaForCausalLM'
}

trap 'exit 130' INT TERM
check_python
if [ -e "$UNFINISHED" ] || [ ! -x "$VENV/bin/pip" ]; then
    rm -rf "$VENV"
    mkdir -p "$VENV"
    touch "$UNFINISHED"
    "$PYTHON" -m venv "$VENV"
fi
touch "$UNFINISHED"
case ${1:-} in
core) run_pip install -e '.[telemetry]' ;;
engine) install_engine ;;
tools) run_pip install -e '.[test,dev,bench,training]' ;;
*) fail "say what to install: core, engine or tools." ;;
esac
rm "$UNFINISHED"
