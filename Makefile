# Needs Python 3.11 or newer and nothing else: everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("betastar needs Python 3.11 or newer; name one with make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

.venv/test: .venv/demo
	$(BIN)/pip install -q -c constraints.txt -e '.[test,docs]'
	@touch $@

demo: .venv/demo  ## run the micro world: several minutes on two cores
	$(BIN)/betastar run micro

test: .venv/test  ## lint, types and the fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -n 2

test-thorough: .venv/test  ## what takes seconds each: whole runs, many models, notebooks
	$(BIN)/pytest -n 2 -m thorough

test-kernels: .venv/test  ## the Triton kernels, interpreted: needs no GPU, but triton (190 MB)
	$(BIN)/pip install -q triton
	TRITON_INTERPRET=1 $(BIN)/pytest tests/models/test_kernels.py

test-slow: .venv/test  ## the tests that take minutes
	$(BIN)/pytest -m slow

tables: .venv/demo  ## the tables of docs/results.md, from the registry of measures
	$(BIN)/python -m betastar.record.documentation docs/results.md

bench: .venv/test  ## the benchmarks of docs/benchmarks.md
	$(BIN)/python benchmarks/bank.py
	$(BIN)/python benchmarks/threads.py
	$(BIN)/python benchmarks/micro.py
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/coverage.py

gpu-wheels:  ## what benchmarks/gpu_check.py needs on a bare GPU machine without a network, as wheels in gpu-wheels/
	$(PYTHON) benchmarks/gpu_wheels.py --out gpu-wheels

docs: .venv/test  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

dist: .venv/test  ## build the source distribution and the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build --no-isolation

.PHONY: help demo test test-thorough test-kernels test-slow tables bench gpu-wheels docs dist
