# What a newcomer and CI type. `make demo` and `make test` set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
# Compiled modules are kept even where a machine's environment forbids it: each start of `kws train` takes a second less.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test slow all-tests heavy setup lint types full bench gpu clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: setup  ## corpus, shards, training on two processes, evaluation, report; under five minutes on two cores
	@launch/demo.sh

test: setup  ## the tests without the slow ones, five minutes on two cores
	$(BIN)/pytest

slow: setup  ## the slow tests: grids, repeats, long kills
	$(BIN)/pytest -m "slow and not heavy"

all-tests: setup  ## both in one pytest, whose workers start and make what tests share once
	$(BIN)/pytest -m "not heavy"

heavy: setup  ## full-size networks and compilers: an hour or more on two cores
	$(BIN)/pytest -m heavy

setup: .venv/.ready  ## .venv with kws and all its dependencies

.venv/.ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11; type: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "setting up .venv: about 1.5 GB, a minute or two"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq --disable-pip-version-check --no-compile --constraint constraints.txt torch
	$(BIN)/pip install -qq --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
# On all cores; pip compiles on one, which takes 80 s. Some packages have templates that are no Python.
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
	@touch $@

lint: setup  ## ruff, import layers, shell scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	@if command -v shellcheck >/dev/null; then shellcheck launch/*.sh slurm/*.sh slurm/*.sbatch .ci/run; else echo "shellcheck is not installed: skipped"; fi

types: setup  ## mypy --strict
	$(BIN)/mypy

full: lint types all-tests  ## lint, types and all tests but the heavy ones: at most 25 minutes on two cores

bench: setup  ## all benchmarks but that of `make gpu`, one after the other
	@for script in benchmarks/*.py; do [ "$$script" != benchmarks/gpu.py ] || continue; echo "== $$script"; $(BIN)/python $$script || exit 1; done

gpu: setup  ## proves a machine with a GPU, in ten minutes: correctness, speed (benchmarks/gpu.py)
	$(BIN)/python benchmarks/gpu.py

clean:  ## removes .venv, and the data and run of the demo
	rm -rf .venv data/demo data/demo-spoken runs/demo
