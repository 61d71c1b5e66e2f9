#!/usr/bin/env bash
# Make .venv-peers/NAME, the environment of another framework: `scripts/install_peer.sh NAME [PYTHON]`.
# NAME is a file of requirements/peers without `.txt`. The environments serve benchmarks/conformance.
set -euo pipefail
cd "$(dirname "$0")/.."
# torch and torch_index are those of the main environment.
eval "$(grep -E '^torch(_index)?=' scripts/install.sh)"

fail() { printf 'install_peer: %s\n' "$*" >&2; exit 1; }

name=${1:-}
pins="requirements/peers/$name.txt"
[ -n "$name" ] && [ -f "$pins" ] ||
  fail "no peer named '$name'. Known: $(cd requirements/peers && echo *.txt | sed 's/\.txt//g')"
python=${2:-$(command -v python3.11 || command -v python3.12)} || fail "no Python 3.11 or 3.12 found. Name one as second argument."

venv=".venv-peers/$name"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# Some of the packages ask for a newer Python or for CUDA; the files that are measured need neither.
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps --ignore-requires-python --progress-bar off)
echo "install_peer: $torch and $(grep -c '==' "$pins") pinned packages into $venv"
"${pip[@]}" "$torch" 2>/dev/null || "${pip[@]}" --index-url "$torch_index" "$torch"
"${pip[@]}" -r <(grep -v '# from source' "$pins")
# A package that is built from source finds torch and its tools in the environment, and builds no kernels.
if grep -q '# from source' "$pins"; then
  DS_BUILD_OPS=0 DS_ACCELERATOR=cpu "${pip[@]}" --no-build-isolation -r <(grep '# from source' "$pins")
fi
echo "install_peer: done"
