# Each target does all its own set-up: a virtual environment in .venv, made anew whenever pyproject.toml changes.
# PYTHON names the interpreter it is made from: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: help demo test fast-test lint docs docs-check benchmarks clean reliability

help:
	@echo "make demo       fool photos by their backgrounds, from nothing to pictures"
	@echo "make test       lint, check the docs, run every test"
	@echo "make fast-test  run the tests that take seconds"
	@echo "make lint       ruff and mypy"
	@echo "make docs       write docs/cli.md anew"
	@echo "make benchmarks [QUICK=--quick]  time latcli beside its peers: 50 minutes, or a few"
	@echo "make reliability  kill, interrupt and overload it, and print what came of it: an hour"
	@echo "make clean      remove the virtual environment"

demo: $(INSTALLED)
	$(BIN)/latcli demo

test: lint docs-check
	$(BIN)/python -m pytest -n 2 --dist worksteal

fast-test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# One process: each test measures how soon another one ends.
reliability: $(INSTALLED)
	LATCLI_RELIABILITY=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/reliability -rs

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python docs/generate_cli.py

docs-check: $(INSTALLED)
	$(BIN)/python docs/generate_cli.py --check

benchmarks: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[benchmarks]'
	$(BIN)/python -m benchmarks $(QUICK) --out runs/benchmarks.json

clean:
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("latcli needs Python 3.11 or later; name one: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@
