# `make` alone lists what there is to do. Each target sets up all it needs in .venv.
PYTHON ?= python3
VENV := .venv
# Of the public connector, which is tested beside ours and asked by its own clients.
INCUMBENT := .venv-incumbent
# Without bytecode: the connector is imported where it lies, and would be rendered with its caches.
RUN := $(VENV)/bin/python -B
# Processes that run tests at the same time: more than there are processors, as most wait for brokers.
WORKERS ?= 5

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test quick coverage soak lint bench manifest twin clean

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## Generate a service, start it, ask it, edit it, ask it again
	@$(PYTHON) scripts/ensure_broker.py
	@$(RUN) scripts/demo.py

test: $(VENV)/.test $(INCUMBENT)/.incumbent  ## Run all tests, side by side; pass on arguments with PYTEST_ARGS
	@$(PYTHON) scripts/ensure_broker.py
	$(RUN) -m pytest --numprocesses $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

quick: $(VENV)/.test $(INCUMBENT)/.incumbent  ## Run what needs neither a broker nor containers, side by side
	$(RUN) -m pytest --numprocesses auto --dist loadgroup \
		-m 'not broker and not containers and not slow' $(PYTEST_ARGS)

coverage: $(VENV)/.test $(INCUMBENT)/.incumbent  ## Measure the connector's branch coverage by its own tests: 95 % or it fails
	@$(PYTHON) scripts/ensure_broker.py
	@mkdir -p .cache && rm -f .cache/coverage*
	$(RUN) -m coverage run -m pytest -k 'not incumbent' tests/connector tests/conformance tests/test_reload.py \
		tests/test_describe.py
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

soak: $(VENV)/.test  ## Cause random faults under load, for ten minutes: SEED=7 FAULTS=200
	@$(PYTHON) scripts/ensure_broker.py
	$(RUN) -m pytest -m soak tests/connector
	PYTHONPATH=tests $(RUN) -m soak

lint: $(VENV)/.lint  ## Check the template's files, and those of a project generated from it
	$(RUN) scripts/lint.py

bench: $(VENV)/.demo  ## Measure the service side by side with its peers: QUICK=1 in short, CHECK=1 for what got worse
	@$(PYTHON) scripts/ensure_broker.py
	$(RUN) -m bench

manifest:  ## Note the version and the SHA-256 of each file of the connector, after a change in it
	@$(PYTHON) -B scripts/manifest.py

twin: $(VENV)/.demo  ## Build the twin for Windows' file systems: ADDRESS=https://… of the template itself
	@$(RUN) scripts/twin.py $(if $(ADDRESS),--template '$(ADDRESS)')

clean:  ## Remove what the tools made
	rm -rf $(VENV) $(INCUMBENT)
	find . '(' -name __pycache__ -o -name '.*_cache' ')' -prune -exec rm -rf {} +

# One environment for all. A group of pyproject.toml is installed into it when a target first needs
# it, and again when its inputs change.
$(VENV)/.%: pyproject.toml scripts/venv.py
	@$(PYTHON) scripts/venv.py $(VENV) $*

$(INCUMBENT)/.incumbent: pyproject.toml scripts/venv.py
	@$(PYTHON) scripts/venv.py $(INCUMBENT) incumbent
