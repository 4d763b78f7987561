# `make demo` and `make test` need nothing but Python and this folder: they build the environment from the lock first.
# Another Python: make test PYTHON=python3.12 VENV=.venv312

SHELL := bash

works = $(shell $(1) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1 && echo $(1))
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3,$(call works,$(p))))
ifeq ($(strip $(PYTHON)),)
$(error No Python 3.11 or 3.12 found: install one, or name it with PYTHON=/path/to/python3.12)
endif
VENV ?= .venv
BIN := $(VENV)/bin

# A virtual environment that exists decides the lock; otherwise the Python it will be made from does.
TAG := $(shell $(firstword $(wildcard $(BIN)/python) $(PYTHON)) -c 'import sys; print("py%d%d" % sys.version_info[:2])')
LOCK := requirements/$(TAG).lock
STAMP := $(VENV)/.installed
COMPILER := $(VENV)/.installed-tpu-compiler

.PHONY: demo test test-all lint lock scaling clean

demo: $(STAMP)
	$(BIN)/xtr demo

test: $(STAMP) $(COMPILER)
	$(BIN)/python -m pytest

test-all: $(STAMP) $(COMPILER)
	$(BIN)/python -m pytest -m "slow or not slow"

# The import contracts are checked on an installed layout: only there is tasks/ a folder of the package xtr.
lint: $(STAMP)
	$(BIN)/ruff check .
	rm -rf build/lib build/layout
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/layout .
	cd build/layout && PYTHONPATH=. $(abspath $(BIN))/lint-imports --config ../../pyproject.toml --no-cache

$(STAMP): $(LOCK) pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# The TPU compiler, for tests that compile for TPUs which are not there. It exists for Linux on x86-64 alone.
$(COMPILER): requirements/$(TAG)-tpu.lock $(STAMP)
	$(BIN)/python -m pip install --quiet -r $< || echo "No TPU compiler for this machine: its tests are skipped."
	touch $@

# Writes every lock anew. Pins that still fit stay; `make lock UPGRADE=--upgrade` takes the newest of everything.
# py3xx.lock is the whole environment; py3xx-tpu.lock and py3xx-gpu.lock hold what an accelerator adds to it, and
# py3xx-beam.lock what an environment for Apache Beam has besides or in another version.
UPGRADE ?=
UV := build/uv/bin/uv
RESOLVE = $(UV) pip compile pyproject.toml --quiet --no-header --no-annotate --no-emit-index-url

lock: $(UV)
	for python in 3.11 3.12; do \
	  base=requirements/py$${python/./}; \
	  $(RESOLVE) $(UPGRADE) --python-version $$python --extra dev --extra huggingface -o $$base.lock || exit; \
	  for device in tpu gpu; do \
	    $(RESOLVE) --python-version $$python --extra $$device -c $$base.lock -o build/$$device.lock --upgrade || exit; \
	    grep -vxFf $$base.lock build/$$device.lock > $$base-$$device.lock; \
	  done; \
	  cp $$base.lock build/beam.lock; \
	  $(RESOLVE) --python-version $$python --extra beam -o build/beam.lock || exit; \
	  grep -vxFf $$base.lock build/beam.lock > $$base-beam.lock; \
	done

$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet uv

# Compiles the large models for TPU slices, which takes minutes each, and writes docs/scaling.md. Rows that are compiled
# are kept: a run that was stopped goes on where it was.
scaling: $(STAMP)
	$(BIN)/python -m pip install --quiet -r requirements/$(TAG)-tpu.lock
	$(BIN)/python -m xtr.cli.scaling docs/scaling.md

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
