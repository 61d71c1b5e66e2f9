# The verbs of this project; each works from a fresh clone with Python 3.11 or 3.12, make and a C++
# compiler. On a CUDA machine with requirements/gpu.txt: make gpu-smoke GPU_PYTHON=python
PYTHON ?=
GPU_PYTHON ?= python
PY := .venv/bin/python
# Tests that start Ray and vLLM take turns; all others share two processes.
SHARED := $(PY) -m pytest -q -n 2 --dist worksteal

.PHONY: install demo lint check test test-all gpu-smoke docs results

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
	@$(SHARED) -m "not live and not slow and not gpu"

test: install
	@$(SHARED) -m "not live and not exhaustive and not gpu"
	@$(PY) -m pytest -q -m "live and not exhaustive and not gpu"

test-all: test
	@$(PY) -m pytest -q -m exhaustive

gpu-smoke:
	@$(GPU_PYTHON) -m pytest tests/live -v -s -m gpu

docs: install
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@echo "wrote outputs/site/index.html"

# A generated table names its command in its mark; each command writes its table there.
results: install
	@grep -hoP '^<!-- \w+:begin \(python \K[^)]*' README.md docs/*.md | while read -r command; do \
	    echo "python $$command"; $(PY) $$command >/dev/null || exit 1; done
