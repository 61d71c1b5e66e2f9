# The verbs of this project; each works from a fresh clone with Python 3.11 or 3.12, make and a C++
# compiler. On a CUDA machine with requirements/gpu.txt: make gpu-smoke GPU_PYTHON=python
PYTHON ?=
GPU_PYTHON ?= python
PY := .venv/bin/python
# Two processes share the tests; those that start Ray and vLLM take turns in one of them.
TEST := $(PY) -m pytest -q -n 2

.PHONY: install demo lint check test test-all test-data test-peers peers gpu-smoke docs finding results

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
	@$(TEST) -m "not live and not slow and not gpu"

test: install
	@$(TEST) -m "not exhaustive and not gpu"

test-all: install
	@$(TEST) -m "not gpu"

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
