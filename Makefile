# Everything a newcomer or CI types. `make demo` and `make test` need nothing set up: they make .venv themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test setup lint types full bench clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

demo: setup  ## corpus, shards, training on two processes, evaluation, report: under five minutes on two cores
	@launch/demo.sh

test: setup  ## the tests, about twelve minutes on two cores
	$(BIN)/pytest

setup: .venv/.ready  ## .venv with kws and all it needs

.venv/.ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11; type: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "setting up .venv: about 1.5 GB, a minute or two"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

lint: setup  ## ruff, import layers, shell scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	@if command -v shellcheck >/dev/null; then shellcheck launch/*.sh slurm/*.sh slurm/*.sbatch .ci/run; else echo "shellcheck is not installed: skipped"; fi

types: setup  ## mypy --strict
	$(BIN)/mypy

full: lint types  ## lint, types, and all tests, the slow ones too
	$(BIN)/pytest -m "slow or not slow"

bench: setup  ## the benchmarks, one after the other
	@for script in benchmarks/*.py; do [ -e "$$script" ] || continue; echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## what make made: .venv, the demo's data and run
	rm -rf .venv data/demo data/demo-spoken runs/demo
