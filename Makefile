# Every target does the set-up it needs: a virtual environment in .venv, exactly what the lock file names.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# Else every process of the tests compiles all test modules anew, which takes it 4 s.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
# A lock names all that is needed. Modules are compiled when they are first imported; most never are.
LOCKED := --require-hashes --no-deps --no-compile --requirement

# More arguments for the tool behind a target: make test ARGS="-k expiry".
ARGS ?=

# The first interpreter that is new enough. It is run, not just looked up: a version manager's stand-in may
# be on the path for a Python that isn't there.
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c "$(IS_NEW_ENOUGH)" 2>/dev/null && { echo $$python; break; }; done)

.PHONY: help
help:  ## Show what can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: demo
demo: $(VENV)/ready  ## Run the whole worker once, with nothing but this machine, and show what it does
	@$(BIN)/card-worker demo $(ARGS)

.PHONY: dev
dev: $(VENV)/ready  ## Keep the same running, with beat and Flower, until Ctrl-C
	@$(BIN)/card-worker dev $(ARGS)

.PHONY: report-demo
report-demo: $(VENV)/ready  ## Write the financial report about a year of made-up trade, into build/report-demo
	@$(BIN)/python -m tests.report.trade $(ARGS)

.PHONY: worker
worker: $(VENV)/ready  ## Run a worker on the servers in CARD_WORKER_*, with the settings in celeryconfig.py
	@CELERY_CONFIG_MODULE=celeryconfig $(BIN)/card-worker worker $(ARGS)

# tests/conftest.py says how many run at once, and which stay together.
SIDE_BY_SIDE := -n auto --no-loadscope-reorder
# The files left out would take as long as all the others together.
SLOW := $(addprefix tests/,cli/test_ends.py cli/test_export.py cli/test_loading.py reference/test_reference.py \
	secrets/test_barcodes.py storage/test_amplification.py storage/test_attempts.py storage/test_handler.py \
	storage/test_migrations.py storage/test_orders.py storage/test_reconcile.py storage/test_retention.py \
	storage/test_senders.py)
QUICK := $(addprefix tests/,cli contracts documents domain reference secrets settings storage) \
	$(addprefix --ignore=,$(SLOW))

.PHONY: test
test: $(VENV)/ready $(VENV)/node  ## Run the tests, side by side; select some with ARGS="-k expiry"
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not debian" $(ARGS)

.PHONY: test-quick
test-quick: $(VENV)/ready  ## Run most tests that need no server, in less than a minute
	@$(BIN)/python -m pytest -n logical --no-loadscope-reorder -m "not debian and not server" $(QUICK) $(ARGS)

.PHONY: test-debian
test-debian: $(VENV)/ready programs  ## Run the tests that need programs of Debian's; as root, install those
	@$(BIN)/python -m pytest -m debian $(ARGS)

.PHONY: pictures
pictures: $(VENV)/ready programs  ## Take the pictures of docs/pictures anew
	@PICTURES=docs/pictures $(BIN)/python -m pytest tests/flow/test_flower_pages.py $(ARGS)

.PHONY: test-model
test-model: $(VENV)/ready  ## Prove the rules at length: two plain models, a long stream, races, forms of URLs
	@MODEL_EXAMPLES=1000 MODEL_STEPS=50 STREAM_COMMANDS=10000 STREAMS=1000 RACES=2000 ALL_FORMS=1 \
		DIFFERENTIAL_COMMANDS=20000 $(BIN)/python -m pytest tests/model tests/differential \
		tests/storage/test_races.py tests/flow/test_redis_urls.py $(ARGS)

.PHONY: chaos
chaos: $(VENV)/ready  ## Kill workers under load and prove the books; ARGS="--seed 2"
	@$(BIN)/python -m tests.chaos.kills $(ARGS)

.PHONY: chaos-batch
chaos-batch: $(VENV)/ready  ## Kill everything while an order is made; hold its cards against its file
	@$(BIN)/python -m tests.chaos.orders $(ARGS)

.PHONY: chaos-servers
chaos-servers: $(VENV)/ready  ## Do 60 faults to servers and parts under load; ARGS="--seed 2"
	@$(BIN)/python -m tests.chaos.servers $(ARGS)

.PHONY: planted
planted: $(VENV)/ready  ## Plant bugs one at a time and name the test that catches each
	@$(BIN)/python -m tests.planted $(ARGS)

.PHONY: soak
soak: $(VENV)/ready  ## Send 300,000 commands one by one and see whether a worker keeps growing
	@$(BIN)/python -m tests.chaos.soak $(ARGS)

# The peers' libraries stay out of the project's own environment.
BENCH := benchmarks/.venv

.PHONY: bench
bench: $(VENV)/ready $(BENCH)/locked  ## Measure beside others, some 25 minutes; a little of it with ARGS=--quick
	@$(BIN)/python -m benchmarks $(ARGS)

$(BENCH)/locked: benchmarks/requirements.lock | python
	@$(PYTHON) -m venv --clear $(BENCH)
	@$(BENCH)/bin/python -m pip --disable-pip-version-check --no-input -qq install \
		--require-hashes --requirement benchmarks/requirements.lock
	@touch $@

.PHONY: lint
lint: $(VENV)/ready  ## Check style, types and who imports whom
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: wheel
wheel: $(VENV)/ready  ## Build the wheel into dist/
	@$(BIN)/python -m hatchling build --target wheel --directory dist

AUDIT := .venv-audit
# Tests and the generated reference have keys and passwords that are made up.
NO_SECRETS := ':!*.lock' ':!tests' ':!docs/reference'

.PHONY: audit
audit: $(AUDIT)/locked  ## Look for known vulnerabilities, dangerous calls and secrets; needs the internet
	@# ruff looks at SQL in strings, with a reason at each exception.
	@$(AUDIT)/bin/bandit --quiet --recursive --severity-level medium --skip B608 src
	@git ls-files -z -- $(NO_SECRETS) | xargs -0 $(AUDIT)/bin/detect-secrets-hook --exclude-lines 'user:password@|age1'
	@for lock in requirements*.lock; do $(AUDIT)/bin/pip-audit --strict --require-hashes --disable-pip --requirement $$lock; done

$(AUDIT)/locked: requirements-audit.lock | python
	@$(PYTHON) -m venv --clear $(AUDIT)
	@$(AUDIT)/bin/python -m pip --disable-pip-version-check --no-input -qq install \
		--require-hashes --requirement requirements-audit.lock
	@touch $@

# Its own environment, because the lock file may not exist yet or may not install.
LOCK := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--no-build --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" $(ARGS)

.PHONY: lock
lock: python  ## Pin what pyproject.toml asks for; raise what is pinned with ARGS=--upgrade
	@test -x .venv-lock/bin/uv || $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip --disable-pip-version-check -qq install 'uv>=0.13,<0.14'
	@$(LOCK) pyproject.toml --all-extras --group dev --output-file requirements.lock
	@# What production runs is a part of what was tested, never another version.
	@$(LOCK) pyproject.toml --extra flower --extra report --extra sentry --constraint requirements.lock --output-file requirements-runtime.lock
	@$(LOCK) --group node --output-file requirements-node.lock
	@$(LOCK) --group audit --constraint requirements.lock --output-file requirements-audit.lock
	@$(LOCK) benchmarks/requirements.in --constraint requirements.lock --output-file benchmarks/requirements.lock

.PHONY: clean
clean:  ## Remove everything that was made here
	@rm -rf $(VENV) $(BENCH) $(AUDIT) .venv-lock build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What tests with the marker `debian` run. An installed service isn't started: RUNLEVEL is for that.
PROGRAMS := age pgbouncer prometheus chromium-driver

.PHONY: programs
programs:
	@missing=$$(for program in $(PROGRAMS); do \
		PATH=$$PATH:/usr/sbin command -v $${program/chromium-driver/chromedriver} >/dev/null || echo $$program; done); \
	install="apt-get install --no-install-recommends --yes --quiet=2 "$$missing; \
	if [[ -n $$missing ]] && ! { [[ $$(id -u) = 0 ]] && command -v apt-get >/dev/null \
		&& apt-get update --quiet=2 && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive $$install; }; then \
		echo "tests will be skipped until a root user has run: $$install" >&2; fi

.PHONY: python
python:
	@$(or $(PYTHON),false) -c "$(IS_NEW_ENOUGH)" 2>/dev/null \
		|| { echo "card_worker needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3" >&2; exit 1; }

# Made anew when the lock changes, so that nothing is left over that the lock doesn't name.
$(VENV)/locked: requirements.lock | python
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once, about a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install $(LOCKED) requirements.lock
	@touch $@

# Of pyproject.toml the installed project holds the entry point and the metadata; the code is used in place.
$(VENV)/ready: $(VENV)/locked pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/node: requirements-node.lock | $(VENV)/ready
	@$(PIP) install $(LOCKED) requirements-node.lock
	@touch $@
