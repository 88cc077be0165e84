# Every developer habit is one target; `make` alone prints them. What a target needs, it makes first.

PYTHON ?= python3
NAME ?=
RECIPE ?=
DATA :=
ARGS ?=
# Trials side by side; by default two on a CPU, else one on each GPU.
JOBS ?=
# Two test processes of one thread each: the suite's worth of work on a laptop or a small CI machine.
PYTEST_ARGS ?= -n 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)
# uv installs the same locked files several times faster; pip comes with every Python. Both check the hashes.
INSTALL := $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) --require-hashes

export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export OMP_NUM_THREADS := 1
# Every stage is a process of its own; without bytecode files each would compile torch and MLflow anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup repro status ui preset ablation test smoke bench lint format type check lock clean docs

help: ## print this page
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv from requirements.lock (PYTHON=python3.12 picks another interpreter)

# No stamp means no environment yet, or one whose installation was cut short: both begin from nothing.
# The stamp goes before an update and comes back last, so that a cut in between is seen the next time.
$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "setup: '$(PYTHON)' is not a Python of 3.11 to 3.13; name one: make setup PYTHON=python3.11" >&2; exit 1; }
	@test -e $@ || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@rm -f $@
	@echo "setup: installing requirements.lock with $(if $(UV),uv,pip) (the first time fetches some gigabytes)"
	@$(INSTALL) -r $<
	@touch $@

repro: setup ## dvc repro, JOBS trials at a time: what is stale runs; then print the table
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m nas.commands.launch $(if $(JOBS),--jobs $(JOBS))

status: setup ## say what `make repro` would run
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc status

ui: setup ## open the MLflow view of the runs
	@$(BIN)/python -m nas.commands.track ui

preset: setup ## write presets/NAME.yaml into params.yaml (NAME=cifar10 RECIPE=fast DATA=cifar100); without NAME list them
	@test -n "$(NAME)" || test -z "$(RECIPE)$(DATA)" || { \
	  echo "preset: RECIPE and DATA go with a NAME: make preset NAME=cifar10 RECIPE=fast DATA=cifar100" >&2; exit 2; }
	@$(BIN)/python -m nas.commands.preset $(if $(NAME),use $(NAME) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(DATA),--data $(DATA)),list)

ablation: setup ## run presets/ablations/NAME.yaml over params.yaml, print its table; without NAME list them
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m nas.commands.ablate $(if $(NAME),run $(NAME) $(if $(JOBS),--jobs $(JOBS)) $(ARGS),list)

test: setup ## the whole test suite (PYTEST_ARGS="-m 'not slow'" for a part)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

smoke: setup ## the tests that run the pipeline itself, small
	@$(BIN)/python -m pytest -m pipeline

bench: setup ## time the engine against the plain code, ratios only (ARGS="--only search"); quarter of an hour
	@$(BIN)/python -m bench $(ARGS)

lint: setup ## ruff: rules and format, changing nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup ## ruff: fix and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

type: setup ## mypy over nas/, stages/, bench/ and tests/
	@$(BIN)/mypy

check: lint type test ## what a change must pass

lock: ## compile requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --quiet --output-file requirements.lock

clean: ## remove caches of the tools; never data, runs, checkpoints or reports
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

docs: setup ## build the documentation site into build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs: build/site/index.html"
