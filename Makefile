# The verbs of this project; each works from a fresh clone with Python 3.11 or 3.12, make and a C++ compiler.
PY := .venv/bin/python
PYTHON ?=

.PHONY: install demo test check

install: .venv/.installed

.venv/.installed: requirements/cpu.txt requirements/dev.txt scripts/install.sh
	@scripts/install.sh $(PYTHON)

demo: install
	@$(PY) -m recipe.main +experiment=cpu_demo aggregation=balanced

check: install
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/codespell
	@.venv/bin/basedpyright --level error
	@$(PY) -m pytest -q -m "not live"

test: install
	@$(PY) -m pytest -q
