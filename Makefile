# make demo     classify a few photos (or your own: make demo PHOTOS="a.jpg holiday/")
# make test     everything a reviewer would run: format, lint, types, tests
# make rehearse SageMaker on this machine, without an account: train, deploy, invoke, transform, delete, and faults
#
# All share .venv. demo installs the core alone (about 220 MB); the others add torch and all the rest (several GB).

PYTHON ?= python3
PHOTOS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test rehearse java
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(VENV)/.core
	@photos='$(PHOTOS)'; \
	if [ -z "$$photos" ]; then photos=$$($(BIN)/python benchmarks/demo_photos.py build/demo) || exit 1; fi; \
	$(BIN)/python -m catdog.predict $$photos

test: $(VENV)/.dev java
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q

rehearse: $(VENV)/.dev java
	@command -v java >/dev/null || \
	{ echo "TorchServe needs Java; on Debian or Ubuntu: sudo apt-get install default-jre-headless" >&2; exit 1; }
	$(BIN)/pytest -q -s tests/integration/test_rehearsal.py

# TorchServe, which SageMaker's serving toolkit starts, runs on it; without it those tests are skipped.
java:
	@if ! command -v java >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	apt-get update -qq && apt-get install -y -qq default-jre-headless >/dev/null; fi

# A stamp is as new as the last install, so a second run reinstalls nothing until pyproject.toml changes.
$(VENV)/.core: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.core

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	{ echo "catdog needs Python 3.10 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	{ echo "$(PYTHON) has no venv module with pip; on Debian or Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
