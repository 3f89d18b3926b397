# thinwire: `make demo` shows the main job, `make test` runs every test, `make check` is the quick part.
# Every target may be run again at any time and from any state.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= demo
DEMO_LINK ?= 400Mbit,40Mbit@84,400Mbit@140

.DEFAULT_GOAL := help
.PHONY: help install demo cluster-packages cluster-tools cluster-images cluster chart-docs test check lint proto clean

help: ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

install: $(STAMP) ## Install thinwire, its runtime and the development tools into .venv

$(STAMP): pyproject.toml constraints.txt
	@echo "==> installing into $(VENV) (about 5 GB the first time: torch comes with CUDA)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "thinwire needs Python 3.11 or newer; got $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[runtime]' --group dev
	@touch $@

demo: install ## Turn eight prompts into eight pictures on four ranks, over a link that thins tenfold and recovers (emulated)
	@echo "==> four ranks on this machine; the link between them is emulated: $(DEMO_LINK)"
	@rm -rf $(DEMO)
	$(BIN)/thinwire run examples/emoji.yaml --output $(DEMO) --emulate-link $(DEMO_LINK)

lint: install
	@echo "==> format, lint, types, layers, generated files"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/python docs/generate_crd_reference.py --check
	$(BIN)/python -m bench page --check

check: lint ## Format, lint, types, layers and unit tests: a few minutes
	@echo "==> unit tests"
	$(BIN)/python -m pytest -q -m "not distributed and not torchrun and not cluster and not netlab"

cluster-packages:
	@$(PYTHON) -m tests.cluster.debian

cluster-tools: cluster-packages ## Make the test cluster's programs, once, in a cache (needs Go 1.24 or newer, and root)
	@echo "==> the test cluster's programs"
	@$(PYTHON) -u -m tests.cluster.binaries

cluster-images: install cluster-packages
	@echo "==> the images of controller and ranks (about 21 GB in a cache; minutes the first time)"
	@$(BIN)/python -u -m tests.cluster.node --images

cluster: cluster-tools cluster-images ## Start a Kubernetes cluster of one node on this machine, to play with, until Ctrl-C (needs root)
	@$(BIN)/python -m tests.cluster.node

chart-docs: cluster-tools ## Write the chart's README from its values
	@$$($(BIN)/python -m tests.cluster.binaries --folder)/helm-docs --chart-search-root charts/thinwire --log-level error

test: ## Install what the tests need and run every test
	@$(MAKE) --no-print-directory --jobs=3 lint cluster-tools cluster-images
	@echo "==> every test"
	$(BIN)/python -m pytest --durations=40 --durations-min=10

proto: install ## Generate the Python code of the .proto files
	$(BIN)/python proto/generate.py

clean: ## Remove the environment and everything built
	rm -rf $(VENV) build dist $(DEMO) *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
