# The README's commands. Each sets up what it needs, once, in .venv; nothing else on the machine is touched.
#   make lab                  run the lab on the cpu profile      make lab FORCE=1: start anew
#   make test                 every test, with the notebooks
#   make jupyter              open JupyterLab
#   make lab TORCH_INDEX=URL  take torch from that index, e.g. the CPU-only one the README names

PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
OUT ?= runs/cpu

.PHONY: lab test jupyter notebooks format setup

lab: $(VENV)/.lab
	$(VENV)/bin/labutils run --profile cpu --out $(OUT) $(if $(FORCE),--force)

test: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python -m pytest tests
	@echo "The notebooks, every cell, against their stored outputs (minutes: they train)"
	$(VENV)/bin/python -m pytest --nbval-lax -x -v --durations=5 notebooks
	@echo "The whole lab through papermill, smoke profile"
	$(VENV)/bin/labutils run --profile smoke --out $$(mktemp -d)/smoke

jupyter: $(VENV)/.jupyter
	$(VENV)/bin/jupyter lab notebooks

# For those who change a notebook: execute it in place, so that its stored outputs belong to its code.
notebooks: $(VENV)/.test
	$(VENV)/bin/python tests/refresh_notebooks.py

format: $(VENV)/.test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

setup: $(VENV)/.lab

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) found. Install Python 3.10 or newer, or: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$$($(PYTHON) --version) is too old; the lab needs 3.10 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python has no venv module. On Debian or Ubuntu: sudo apt install python3-venv. Elsewhere install Python from python.org, or use conda (see README.md)."; exit 1; }
	@echo "Making a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)

# A stamp per set of extras: installing again happens only when pyproject.toml has changed.
$(VENV)/.lab: pyproject.toml | $(VENV)/bin/python
	@echo "Installing the lab; the first time this fetches torch, which takes minutes"
	$(if $(TORCH_INDEX),$(PIP) install torch torchvision --index-url $(TORCH_INDEX))
	$(PIP) install -e .
	@touch $@

$(VENV)/.test: $(VENV)/.lab
	$(PIP) install -e '.[test]'
	@touch $@

$(VENV)/.jupyter: $(VENV)/.lab
	$(PIP) install -e '.[jupyter]'
	@touch $@
