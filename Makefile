# `make help` lists everything; `make demo` and `make test` are the two that matter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/uv/bin/uv
SETUP := $(VENV)/.installed
export DBT_SEND_ANONYMOUS_USAGE_STATS := false
export DAGSTER_DISABLE_TELEMETRY := yes
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-integration test-e2e test-faults bench-sink bench-mobility lint format docs contracts dashboards superset-import superset-export docs-pictures lock ui up down clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed; set PYTHON=/path/to/python3.x"; exit 1; }
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt

$(SETUP): $(UV) requirements/runtime.txt requirements/development.txt pyproject.toml
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --require-hashes --python $(BIN)/python requirements/development.txt
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

setup: $(SETUP) ## Make .venv from the hashed locks

demo: $(SETUP) ## The whole path on embedded servers, with a summary
	scopehouse demo

up: $(SETUP) ## Start the embedded servers
	scopehouse up

down: $(SETUP) ## Stop the embedded servers
	scopehouse down

# Tests wait more than they work: three processes, each with servers of its own (about 1 GB), pay on two cores too.
TEST_PROCESSES ?= 3
SUPERSET := tests/e2e/superset

test: lint ## Lint, then unit, integration (real servers, faults too) and end-to-end tests, in three processes
	pytest --numprocesses $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder --ignore $(SUPERSET)

test-unit: $(SETUP) ## Tests that need no server
	pytest tests/unit

test-integration: $(SETUP) ## Tests against real servers, started once
	pytest tests/integration

test-e2e: $(SETUP) ## Superset's dashboards on a demo's data, in Chromium; all else is in `make test`
	pytest $(SUPERSET)

FAULTS := tests/integration/faults tests/integration/operations tests/integration/sink/test_kills.py

test-faults: $(SETUP) ## Break servers and sinks for long: SCOPEHOUSE_FAULT_ROUNDS=5 by default, `make test` goes one round
	SCOPEHOUSE_FAULT_ROUNDS=$${SCOPEHOUSE_FAULT_ROUNDS:-5} \
		pytest --timeout=3600 $(FAULTS)

bench-sink: $(SETUP) ## The sink against Debezium's JDBC sink and a bare COPY; writes docs/benchmarks.md
	python -m tests.bench.sink

bench-mobility: $(SETUP) ## Trips through sink and dbt, increments on a big fact; writes docs/benchmarks.md
	python -m tests.bench.mobility

lint: $(SETUP) ## Format, lint, types, imports, SQL, contracts, dbt parse
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	python -m ingest.contracts.generate --check
	python -m services.superset.from_dbt --check
	sqlfluff lint --disable-progress-bar dbt_project
	dbt --quiet --warn-error parse --project-dir dbt_project --profiles-dir dbt_project
	hadolint services/docker/Dockerfile
	$(MAKE) --no-print-directory docs

format: $(SETUP) ## Format Python and SQL
	ruff format .
	ruff check --fix .
	sqlfluff fix --disable-progress-bar dbt_project

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(SETUP) ## Build the docs, dbt's beside them, into site/; fails on a link that leads nowhere
	dbt --quiet parse --project-dir dbt_project --profiles-dir dbt_project
	dbt --quiet docs generate --static --no-compile --empty-catalog --project-dir dbt_project --profiles-dir dbt_project
	mkdocs build

contracts: $(SETUP) ## Write what is generated from ingest/contracts
	python -m ingest.contracts.generate

dashboards: $(SETUP) ## Write the datasets and exposures that come from the dbt project
	python -m services.superset.from_dbt

superset-import: $(SETUP) ## Make the running Superset's dashboards equal the files in git
	scopehouse superset import

superset-export: $(SETUP) ## Write the running Superset's certified dashboards to the files in git
	scopehouse superset export

docs-pictures: $(SETUP) ## Take the dashboards' pictures from the running Superset, by Debian's Chromium
	python -m docs.pictures

LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
lock: $(UV) ## Resolve the locks anew (development first: the linters are the choosier ones)
	$(LOCK) pyproject.toml --group development -o requirements/development.txt
	$(LOCK) pyproject.toml -c requirements/development.txt -o requirements/runtime.txt
	echo uv | $(LOCK) - -o requirements/uv.txt

ui: $(SETUP) ## Open the Dagster UI on the running servers
	scopehouse ui

clean: ## Remove .venv and what tools left behind (not .scopehouse: that is your data)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dbt_project/target dbt_project/logs
