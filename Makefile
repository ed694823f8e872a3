# Every target does its own set-up; nothing is needed but python3 (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Tests of one file stay in one process, and those that break servers on purpose share one.
PARALLEL ?= -n 3 --no-loadscope-reorder
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready
DOCS_VENV := .state/docs
DOCS_READY := $(DOCS_VENV)/.ready

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help run test test-long test-peers lint types format bench bench-events bench-queries bench-accounting bench-registry docs docs-serve lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(RUN_READY) ## Run the gateway on http://127.0.0.1:4010, with its own PostgreSQL, data in .data/
	@HX_DATA_DIR=$${HX_DATA_DIR:-.data} exec $(PY) -m hx_gateway serve

test: $(DEV_READY) ## Run all tests with small counts
	@$(PY) -m pytest $(PARALLEL)

test-long: $(DEV_READY) ## Run the counts that claims rest on; resumes where it stopped; writes docs/verification.md (ONLY=registry: those)
	@PARALLEL="$(PARALLEL)" $(PY) scripts/verify.py $(ONLY)

test-peers: $(DEV_READY) ## Run against real peers (a LiteLLM proxy), installed in an environment of their own
	@$(PY) scripts/peers.py

lint: $(DEV_READY) ## Check style and import contracts
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .
	@$(VENV)/bin/lint-imports --no-logo

types: $(DEV_READY) ## Check types
	@$(PY) -m mypy && $(PY) -m mypy tests scripts benchmarks

format: $(DEV_READY) ## Format the code
	@$(PY) -m ruff check --fix-only . && $(PY) -m ruff format .

bench: $(DEV_READY) ## Measure the gateway against a direct connection (and nginx, where installed)
	@$(PY) -m benchmarks.run $(BENCH)

bench-events: $(DEV_READY) ## Measure how fast events are accepted and stored, beside raw COPY
	@$(PY) -m benchmarks.record $(BENCH)

bench-queries: $(DEV_READY) ## Measure every filter over 10 million events; loads them the first time
	@$(PY) -m benchmarks.queries $(BENCH)

bench-accounting: $(DEV_READY) ## Measure what limits, budgets and spend records cost beside authentication alone
	@$(PY) -m benchmarks.accounting $(BENCH)

bench-registry: $(DEV_READY) ## Measure what is asked of 100,000 registered services; loads them the first time
	@$(PY) -m benchmarks.registry $(BENCH)

docs: $(DOCS_READY) ## Build the documentation site in site/; a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict

docs-serve: $(DOCS_READY) ## Show the site on http://127.0.0.1:8000 while pages are edited
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs serve --strict

lock: $(DEV_READY) ## Resolve the dependencies anew
	@$(PY) scripts/lock.py

clean: ## Remove environments and caches, not the data
	rm -rf $(VENV) $(DOCS_VENV) site .mypy_cache .ruff_cache .import_linter_cache dist benchmarks/out

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "HX Gateway needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv module is incomplete. On Debian and Ubuntu: apt-get install -y python3-venv"; exit 1; }
	@echo "Making the environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(RUN_READY): requirements.lock pyproject.toml | $(PY)
	@echo "Installing the locked dependencies ..."
	@$(PY) -m pip install -q --require-hashes --only-binary :all: -r requirements.lock
	@$(PY) scripts/link_source.py
	@touch $@

$(DEV_READY): requirements-dev.lock pyproject.toml | $(PY)
	@echo "Installing the locked dependencies for development ..."
	@$(PY) -m pip install -q --require-hashes --only-binary :all: -r requirements-dev.lock
	@$(PY) scripts/link_source.py
	@touch $@ $(RUN_READY)

# In an environment of its own: nothing that is tested depends on what makes the site.
$(DOCS_READY): requirements-docs.lock | $(PY)
	@echo "Installing the locked dependencies of the documentation site ..."
	@$(PY) -m venv --clear $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install -q --require-hashes --only-binary :all: -r requirements-docs.lock
	@touch $@
