# make setup | repro [PROFILE=quick] | smoke | test | check | mlflow
PROFILE ?= quick
# The first Python that is new enough; any other by make PYTHON=/path/to/python3.12
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# pip would compile every module, which takes as long as the rest; Python compiles what is imported, and keeps that.
PIP_INSTALL = $(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt
export PYTHONDONTWRITEBYTECODE =

.PHONY: setup remade repro smoke test check mlflow

setup: .venv/.installed

# Scripts name their Python by its path, so that a folder that was moved or copied needs another .venv.
FIT := $(shell grep -qsF -e "$$(pwd -P)/.venv/bin/python" -e "$$(cd .venv 2>/dev/null && pwd -P)/bin/python" $(BIN)/pip && \
	$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes)

remade:
	@test -n "$(PYTHON)" || { echo "dapbench needs Python 3.11 or newer: install one, or name it by make PYTHON=..." >&2; exit 1; }
	@test ! -L .venv || { echo ".venv is a link to an environment that does not work here: remove the link" >&2; exit 1; }
	@test ! -e .venv || echo ".venv is made anew: it has no working Python 3.11 with pip, or was made in another folder"
	@$(PYTHON) -m venv --clear .venv

.venv/.installed: pyproject.toml constraints.txt $(if $(FIT),,remade)
	@echo "installing into .venv; this takes a few minutes the first time"
	@$(PIP_INSTALL) -e .
	@touch $@

.venv/.installed-dev: .venv/.installed
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@

repro: setup
	@$(BIN)/dapbench repro profile=$(PROFILE)

smoke:
	@$(MAKE) --no-print-directory repro PROFILE=smoke

test: .venv/.installed-dev
	@$(BIN)/python -m pytest -n logical --maxprocesses 4

check: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

mlflow: setup
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --workers 1
