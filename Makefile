# make demo  [PROFILE=my.yaml]  run every stage and print the table     make dev [PROFILE=my.yaml]   the Dagster UI
# make check [PROFILE=my.yaml]  what a run would do                     make venv                    the set-up alone
# make test                     the tests                               make lint                    ruff and mypy
# make e2e                      the deployed service in a browser

PYTHON ?= python3
PROFILE ?= embedded
VENV := .venv
READY := $(VENV)/ready

export FINSTILL_PROFILE = $(PROFILE)
# The environment's commands (dg calls others by name) before the machine's.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo check dev test e2e lint venv clean

venv: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Finstill needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[pipeline,dev]'
	@touch $@

demo: $(READY)
	@$(VENV)/bin/python -m pipelines.run

check: $(READY)
	@$(VENV)/bin/finstill check $(or $(wildcard $(PROFILE)),$(wildcard pipelines/profiles/$(PROFILE).yaml),$(PROFILE)) $(if $(JSON),--json $(JSON))

dev: $(READY)
	@$(VENV)/bin/python -m pipelines.dev

test: $(READY)
	@# The long files first, so that neither process is left with one at the end.
	$(VENV)/bin/python -m pytest tests/pipelines tests/assets tests/finstill tests/test_docs.py --numprocesses 2 --dist loadfile --no-loadscope-reorder

e2e: $(READY)
	$(VENV)/bin/python -m pytest tests/e2e

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) .finstill
