# Everything works on a fresh machine with Python >= 3.11, make and a package index: every target sets up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?= -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo smoke test browser test-shapes lint format types layers check clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-11s %s\n", $$1, $$2 }'

setup: $(STAMP) ## Create .venv and install Polyfold in it, with everything it can use

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "error: there is no '$(PYTHON)' here."; \
	  echo "  -> install Python 3.11 or newer, or name yours: make setup PYTHON=/path/to/python3.12"; \
	  exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Polyfold needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1)."; \
	  echo "  -> install a newer one and name it: make setup PYTHON=python3.12"; \
	  exit 1; } >&2
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: '$(PYTHON) -m venv' failed."; \
	  echo "  -> on Debian and Ubuntu: apt install python3-venv; then try again"; \
	  exit 1; } >&2
	@echo "Installing Polyfold and its packages in $(VENV) (the first time this takes some minutes) ..."
	@$(BIN)/python -m pip install -qq --no-input --disable-pip-version-check \
	  -e '.[train,openvino,offline,serve,grpc,tracing,dev]' || { \
	  echo "error: pip could not install the packages (its own message stands above)."; \
	  echo "  -> check the connection to your package index and the free disk space, then run make again"; \
	  exit 1; } >&2
	@touch $@

demo: setup ## Train, distil, compress and measure on the bundled data; prints where the report lies
	$(BIN)/polyfold run recipes/demo.yaml --out runs/demo

smoke: setup ## The same path, as small and quick as it gets
	$(BIN)/polyfold run recipes/smoke.yaml --out runs/smoke

test: setup browser ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

# Debian's Chromium, for the tests of the service's page; where it cannot be had, they are skipped.
browser: ## Install what the page's tests need, where that can be done
	@command -v chromium >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" != 0 ]; then why="this user may not install packages (apt install chromium)"; \
	  elif ! command -v apt-get >/dev/null 2>&1; then why="there is no apt-get here"; \
	  else \
	    echo "Installing Chromium for the tests of the page ..."; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get update -qq; apt-get install -qq -y --no-install-recommends chromium; } >/dev/null 2>&1 \
	      && command -v chromium >/dev/null 2>&1 || why="apt-get could not install chromium"; \
	  fi; \
	  [ -z "$$why" ] || echo "The page's tests in a browser will be skipped: $$why."; \
	}

test-shapes: setup ## The whole chain on XLM-R, mBERT, MiniLM and others in true size (an hour; gigabytes)
	$(BIN)/python -m pytest tests/shapes -m shapes -v $(SHAPES_ARGS)

lint: setup ## Style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup ## Put style and formatting right
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: setup ## Static types, strictly
	$(BIN)/mypy
	$(BIN)/mypy demo/compose.py

layers: setup ## Which module may import which
	$(BIN)/lint-imports

check: lint types layers ## All checks that run nothing

clean: ## Remove caches, build products and the demo's and smoke's runs; .venv and other runs stay
	rm -rf build dist src/*.egg-info runs/demo runs/smoke nncf_debug .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache
	find src tests demo benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
