# One target per task; `make` lists them. A target first makes what it needs.

PYTHON ?= python3
NAME ?=
RECIPE ?=
DATA :=
ARGS ?=
# Trials to run in parallel; by default two on a CPU, else one per GPU.
JOBS ?=
# Two test processes of one thread each suit a laptop or a small CI machine.
PYTEST_ARGS ?= -n 2 --dist worksteal

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)
# uv installs the same locked files several times faster than pip, which every Python has. Both check the hashes.
INSTALL := $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) --require-hashes

export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export OMP_NUM_THREADS := 1
# Stages are separate processes; without bytecode files each would compile torch and MLflow again.
export PYTHONDONTWRITEBYTECODE :=

# .venv/bin/nas runs the code of the current folder if that is a checkout (an experiment's copy, another worktree), else
# the code of this one. An editable install would run this one always. The two odd lines allow for spaces in the path.
define NAS
#!/bin/sh
'''exec' "$(realpath $(BIN))/python" "$$0" "$$@"
' '''
import sys
from pathlib import Path

here = Path.cwd()
sys.path.insert(0, str(here if (here / "nas/commands/main.py").is_file() else Path(sys.prefix).parent))
from nas.commands.main import main

main()
endef
export NAS

.DEFAULT_GOAL := help
.PHONY: help setup repro status ui preset ablation test smoke bench lint format type check lock clean docs

help: ## print this page
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) $(BIN)/nas ## make .venv from requirements.lock (PYTHON=python3.12 picks another interpreter)

# Without the stamp there is no environment, or its installation was interrupted: both start from nothing.
# The stamp is removed before an update and written last, so that an interrupted update is noticed.
$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "setup: '$(PYTHON)' is not a Python of 3.11 to 3.13; name one: make setup PYTHON=python3.11" >&2; exit 1; }
	@test -e $@ || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@rm -f $@
	@echo "setup: installing requirements.lock with $(if $(UV),uv,pip) (the first time fetches some gigabytes)"
	@$(INSTALL) -r $<
	@touch $@

$(BIN)/nas: $(STAMP) Makefile
	@printf '%s\n' "$$NAS" > $@
	@chmod +x $@

repro: setup ## run what is out of date, JOBS trials in parallel; print the table (nas repro)
	@$(BIN)/nas repro $(if $(JOBS),--jobs $(JOBS))

status: setup ## list what `make repro` would run (nas status)
	@$(BIN)/nas status

ui: setup ## serve the MLflow view of the runs (nas track ui)
	@$(BIN)/nas track ui

preset: setup ## write presets/NAME.yaml to params.yaml (NAME=cifar10 RECIPE=fast DATA=cifar100); without NAME list them
	@test -n "$(NAME)" || test -z "$(RECIPE)$(DATA)" || { \
	  echo "preset: RECIPE and DATA need a NAME: make preset NAME=cifar10 RECIPE=fast DATA=cifar100" >&2; exit 2; }
	@$(BIN)/nas preset $(if $(NAME),use $(NAME) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(DATA),--data $(DATA)),list)

ablation: setup ## run presets/ablations/NAME.yaml over params.yaml, print its table; without NAME list them
	@$(BIN)/nas ablate $(if $(NAME),run $(NAME) $(if $(JOBS),--jobs $(JOBS)) $(ARGS),list)

test: setup ## run the test suite (PYTEST_ARGS="-m 'not slow'" for a part)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

smoke: setup ## run the tests of the pipeline itself, on a small project
	@$(BIN)/python -m pytest -m pipeline

bench: setup ## time the engine against plain code; ratios only (ARGS="--only search"); 15 minutes
	@$(BIN)/python -m bench $(ARGS)

lint: setup ## check rules and format with ruff; change nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup ## fix and format with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

type: setup ## run mypy over nas/, stages/, bench/ and tests/
	@$(BIN)/mypy

check: lint type test ## lint, type and test: what a change must pass

lock: ## recompile requirements.lock from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --quiet --output-file requirements.lock

clean: ## remove the caches of the tools, but no data, runs, checkpoints or reports
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

docs: setup ## build the documentation site into build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs: build/site/index.html"
