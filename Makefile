# Two commands for a fresh clone: `make demo` shows the package at work, `make test` checks it.
# The first call makes an environment in .venv; later calls reuse it until pyproject.toml changes.
# TORCH is installed first, so that nothing after it brings another one.

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV ?= .venv
ORDER ?= next_scale
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
UNFINISHED := $(VENV)/.unfinished
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
MODERN := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo "make demo [ORDER=next_scale|raster|masked]   train, generate and evaluate on real digits"
	@echo "make test [ARGS='-k name']                   run the tests"
	@echo "make lint                                    check style and formatting"
	@echo "make clean                                   remove $(VENV), demo-out and caches"
	@echo
	@echo "The first call makes an environment in $(VENV). To choose what goes into it (later: after make clean):"
	@echo "  PYTHON=python3.12     the interpreter (3.11 or newer), now $(PYTHON)"
	@echo "  TORCH='torch>=2.6'    the torch requirement, now $(TORCH)"
	@echo "  TORCH_INDEX=URL       a package index to take torch from, for example one of CPU builds"

demo: $(STAMP)
	@$(BIN)/arimage demo --order $(ORDER) --out demo-out/$(ORDER)

test: $(STAMP)
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --durations=15 $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) demo-out build dist .pytest_cache .ruff_cache
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# While pip works, .unfinished stands in the environment. Whoever finds it there, or an environment
# without a working Python and pip, begins again; one made by other means is kept and added to.
$(STAMP): pyproject.toml
	@$(PYTHON) -c '$(MODERN)' 2>/dev/null || { \
	  echo "arimage needs Python 3.11 or newer; $(PYTHON) answers: $$($(PYTHON) --version 2>&1)"; \
	  echo "Name another one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) lacks the standard modules venv and ensurepip, which make $(VENV)."; \
	  echo "On Debian and Ubuntu they are the package python3-venv."; exit 1; }
	@rm -f $@
	@if [ -e $(UNFINISHED) ] || ! $(BIN)/python -c '$(MODERN)' 2>/dev/null \
	    || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  if [ -e $(VENV) ]; then echo "$(VENV) is incomplete: making it again."; \
	  else echo "Making an environment in $(VENV); this takes a minute or two, once."; fi; \
	  mkdir -p $(VENV) && touch $(UNFINISHED) || exit 1; \
	  find $(VENV) -mindepth 1 ! -path $(UNFINISHED) -delete || { \
	    echo "Cannot empty $(VENV). Stop the installation that still writes there, or remove it."; \
	    exit 1; }; \
	  $(PYTHON) -m venv $(VENV) || exit 1; \
	else echo "Bringing $(VENV) up to date with pyproject.toml."; fi
	@touch $(UNFINISHED)
	@echo "  1/2 $(TORCH)"
	@$(INSTALL) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"
	@echo "  2/2 arimage and what it needs"
	@$(INSTALL) "$(TORCH)" -e ".[test]"
	@$(BIN)/python -c 'from importlib.metadata import version as v; import platform; \
	  print("Ready: Python", platform.python_version() + ", torch", v("torch"))'
	@rm -f $(UNFINISHED)
	@touch $@
