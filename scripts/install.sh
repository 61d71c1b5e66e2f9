#!/usr/bin/env bash
# Make .venv with the pinned CPU stack: `scripts/install.sh [PYTHON]`. Run by `make install`.
set -euo pipefail
cd "$(dirname "$0")/.."
torch="torch==2.13.0+cpu"
torch_index="https://download.pytorch.org/whl/cpu"

fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

python=${1:-}
for candidate in python3.12 python3.11 python3; do
  [ -n "$python" ] && break
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
    python=$candidate
  fi
done
[ -n "$python" ] || fail "no Python 3.11 or 3.12 found. Install one, or name it: make PYTHON=/path/to/python3.11 install"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' ||
  fail "$python is $("$python" --version 2>&1), but the pins are for Python 3.11 and 3.12. Name another: make PYTHON=... install"
command -v c++ >/dev/null || fail "no C++ compiler found (vLLM compiles a kernel at its first request). Install g++ or clang."

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --progress-bar off)
echo "install: $torch, then $(grep -c '==' requirements/cpu.txt) pinned packages into .venv (about 3 GB, 2 minutes)"
"${pip[@]}" "$torch" 2>/dev/null || "${pip[@]}" --index-url "$torch_index" "$torch"
"${pip[@]}" -r requirements/cpu.txt -r requirements/dev.txt
.venv/bin/python -c 'import ray, torch, transformers, vllm' >/dev/null ||
  fail "the packages are installed but do not import. Remove .venv and run again; if it stays, report the lines above."
touch .venv/.installed
echo "install: done"
