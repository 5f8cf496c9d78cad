# make run   sets everything up and runs the main job on real text
# make test  sets everything up and passes the tests
PYTHON ?= $(or $(shell command -v python3.11),python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPARE := .venv-compare

# What the demonstration writes stays below the project: outputs, cache and Prefect's database.
export PREFECT_HOME ?= $(CURDIR)/.prefect
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
export DO_NOT_TRACK ?= 1

.PHONY: docs run test test-slow test-runners engines lint type format bench bench-compare ui lock setup clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

run: setup
	$(BIN)/python flows/rag_ingest.py

# What looks at processes and clocks runs alone, so that nothing else takes its time.
TIMED := tests/e2e tests/faults
SPREAD := -n 2 --dist loadfile $(TIMED:%=--ignore=%)

test: setup
	$(BIN)/python -m pytest $(SPREAD) -m 'not runners and not slow'
	$(BIN)/python -m pytest $(TIMED) -m 'not runners and not slow'

# What takes a minute, or repeats under further seeds what a shorter run shows.
test-slow: setup
	$(BIN)/python -m pytest tests -m 'slow and not runners'

# What all backends are tested on, on further runners of Beam; with the engines, if they are there.
test-runners: setup
	$(BIN)/python -m pytest $(SPREAD) --dist load -m runners
	$(BIN)/python -m pytest $(TIMED) -m runners

# Real engines for tests of the Beam backend, by Go and Maven; what cannot be had is skipped with its reason.
engines: setup
	$(BIN)/python -m tests.engines

lint: setup type
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# The site, in .site; a link that leads nowhere is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

type: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.baseline

# The same work by hand, by Dask Bag, Beam, Ray Data, Daft and ours; two hours. Ray and Daft have an environment of their own.
bench-compare: $(COMPARE)/.installed
	$(COMPARE)/bin/python -m benchmarks.compare --write

$(COMPARE)/.installed: $(STAMP) benchmarks/requirements.lock
	$(PYTHON) -m venv $(COMPARE)
	$(BIN)/uv pip install --quiet --python $(COMPARE)/bin/python -r requirements.lock -r benchmarks/requirements.lock
	$(BIN)/uv pip install --quiet --python $(COMPARE)/bin/python --no-deps --editable .
	touch $@

ui: setup
	$(BIN)/prefect server start

lock:
	uv pip compile pyproject.toml --all-extras --python-version 3.11 --no-emit-index-url --no-header --quiet --output-file requirements.lock
	uv pip compile benchmarks/requirements.in --python-version 3.11 --no-emit-index-url --no-header --quiet --output-file benchmarks/requirements.lock

clean:
	rm -rf out .prefect .funcpipe dead_letters tests/output
