#!/usr/bin/env bash
# Creates .venv and installs this project from constraints.txt. Run it through `make setup`.
#   PYTHON=python3.12   the interpreter to build the environment with
# llama-cpp-python is compiled: with CUDA where nvcc and a working GPU are both here (a CUDA build
# is of no use on a machine without a GPU, so nvcc alone does not ask for one), else for the CPU.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=.venv
llama=$(grep '^llama-cpp-python==' constraints.txt)

fail() {
    echo "setup: $1" >&2
    exit 1
}

has_gpu() { nvidia-smi -L >/dev/null 2>&1; }

wants_cuda() { command -v nvcc >/dev/null && has_gpu; }

has_compiler() {
    local name
    for name in "${CXX:-g++}" clang++ c++; do
        command -v "$name" >/dev/null && return
    done
    return 1
}

make_venv() {
    command -v "$python" >/dev/null ||
        fail "$python is not here; install Python 3.11 or newer, or name one: make setup PYTHON=python3.12"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old; name Python 3.11 or newer: make setup PYTHON=python3.12"
    "$python" -m venv "$venv" ||
        fail "cannot make $venv; on Debian and Ubuntu: apt-get install python3-venv"
}

# The pinned llama-cpp-python is there, with CUDA where CUDA is wanted.
llama_is_built() {
    "$venv/bin/python" - "${llama#*==}" "$1" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, distribution

try:
    found = distribution("llama-cpp-python")
except PackageNotFoundError:
    sys.exit(1)
cuda = any(file.name.startswith("libggml-cuda") for file in found.files or ())
sys.exit(found.version != sys.argv[1] or (sys.argv[2] == "cuda" and not cuda))
PYTHON
}

build_llama() {
    local kind=$1
    has_compiler ||
        fail "no C++ compiler, and llama-cpp-python is compiled here; on Debian and Ubuntu: apt-get install g++"
    if [ "$kind" = cuda ]; then
        echo "setup: compiling $llama with CUDA, many minutes ..."
        # pip's cache does not tell a CUDA build from another, so it must not serve here.
        CMAKE_ARGS="-DGGML_CUDA=on ${CMAKE_ARGS:-}" "$venv/bin/pip" install --no-deps \
            --force-reinstall --no-cache-dir --no-binary llama-cpp-python "$llama" ||
            fail "the CUDA build failed; build for the CPU instead: make setup LLAMA=cpu"
    else
        echo "setup: compiling $llama, about 5 minutes on 2 cores (pip keeps the result) ..."
        "$venv/bin/pip" install --no-deps --no-binary llama-cpp-python "$llama" ||
            fail "llama-cpp-python did not build; the compiler's message is above"
    fi
}

[ -x "$venv/bin/pip" ] || make_venv
kind=${LLAMA:-$(wants_cuda && echo cuda || echo cpu)}
llama_is_built "$kind" || build_llama "$kind"
echo "setup: installing the pinned libraries ..."
"$venv/bin/pip" install -c constraints.txt -e '.[train,serve,eval,dev]' ||
    fail "an installation failed; pip's message is above"
# The tests hold our encoder against the official processors, which insist on torchvision. It lies
# in a folder of its own: libraries that merely find it beside a CPU torch fail to import it.
"$venv/bin/pip" install -q --no-deps --upgrade --target "$venv/oracle" \
    torchvision==0.28.0 || fail "torchvision, for tests only, did not install"
# Charts are held against Mermaid's own parser where Node is; everything else goes without it.
if command -v npm >/dev/null; then
    "$venv/bin/python" scripts/install_mermaid.py ||
        echo "setup: no Mermaid parser: validity of charts will be \"not measured\"; again: make mermaid" >&2
else
    echo "setup: no npm here: validity of charts will be \"not measured\";" \
        "for it, install Node 20 with npm, then: make mermaid" >&2
fi
