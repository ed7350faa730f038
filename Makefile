# make demo     classify a few photos (or your own: make demo PHOTOS="a.jpg holiday/")
# make test     everything a reviewer would run: format, lint, types, tests
# make rehearse SageMaker on this machine, without an account: train, deploy, invoke, transform, delete, and faults
# make wheel    the wheel in dist/, installed alone in a fresh environment and tried there
# make constraints  the newest versions of all that make test installs, into constraints.txt; those of endpoints with hashes
#
# All share .venv. demo installs the core alone (about 240 MB); the others add torch and all the rest (several GB).

PYTHON ?= python3
PHOTOS ?=
VENV := .venv
BIN := $(VENV)/bin
# The versions that the tests were run with. They were resolved on Python 3.11; some have nothing for 3.10.
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check \
	$$($(BIN)/python -c 'import sys; print("--constraint constraints.txt" * (sys.version_info >= (3, 11)))')

.PHONY: help demo test lint types tests rehearsal rehearse wheel constraints java chromium
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(VENV)/.core
	@photos='$(PHOTOS)'; \
	if [ -z "$$photos" ]; then photos=$$($(BIN)/python benchmarks/demo_photos.py build/demo) || exit 1; fi; \
	$(BIN)/catdog predict $$photos

test: lint types tests rehearsal # make -j2 lets them overlap where they may

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/bandit -q -c pyproject.toml -r catdog export train.py inference.py

types: $(VENV)/.dev
	$(BIN)/mypy

# In the order of their names: those of integration take longest and come first, so that all processes end together.
tests: $(VENV)/.dev java chromium
	$(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	--deselect tests/integration/test_rehearsal.py

rehearsal: lint types tests # after all else, two stories at once: endpoints must answer in time
	$(BIN)/pytest -q -n auto --maxprocesses 2 --dist worksteal tests/integration/test_rehearsal.py

rehearse: $(VENV)/.dev java
	@command -v java >/dev/null || \
	{ echo "TorchServe needs Java; on Debian or Ubuntu: sudo apt-get install default-jre-headless" >&2; exit 1; }
	$(BIN)/pytest -q -s tests/integration/test_rehearsal.py

wheel: | $(BIN)/pip
	rm -rf build/lib build/bdist.* build/wheel dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet --disable-pip-version-check dist/*.whl
	cd build && wheel/bin/catdog doctor && wheel/bin/python ../benchmarks/demo_photos.py demo | xargs wheel/bin/catdog predict

constraints: | $(BIN)/pip
	mkdir -p build
	$(BIN)/pip install --quiet --dry-run --ignore-installed --report build/report.json --editable '.[dev]'
	$(BIN)/python .ci/write_constraints.py build/report.json constraints.txt
	$(BIN)/python .ci/write_pins.py constraints.txt catdog/aws/endpoint_requirements.txt

# TorchServe, which SageMaker's serving toolkit starts, runs on it; without it those tests are skipped.
java:
	@if ! command -v java >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	apt-get update -qq && apt-get install -y -qq default-jre-headless >/dev/null; fi

# The browser that the page is tried in; without one those tests are skipped.
chromium: java # apt-get works once at a time
	@if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null \
	&& command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	apt-get update -qq && apt-get install -y -qq chromium >/dev/null; fi

# A stamp is as new as the last install, so a second run reinstalls nothing until pyproject.toml changes.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.core

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	{ echo "catdog needs Python 3.10 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	{ echo "$(PYTHON) has no venv module with pip; on Debian or Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
