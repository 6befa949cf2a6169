# The README's commands. Each sets up what it needs, once, in .venv; nothing else on the machine is touched.
#   make lab                  run the lab on the cpu profile      make lab FORCE=1: start anew
#   make test                 every test, with the notebooks
#   make jupyter              open JupyterLab
#   make lab TORCH_INDEX=URL  take torch from that index, e.g. the CPU-only one the README names

PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/cpu
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
quoted = '$(subst ','\'',$(1))'

# The machine's Chromium or Chrome; where there is none, Playwright's own is fetched, into the environment.
chromium = which chromium chromium-browser google-chrome google-chrome-stable 2>/dev/null | grep -q .
export PLAYWRIGHT_BROWSERS_PATH := 0

ifneq ($(words $(VENV)),1)
$(error VENV is "$(VENV)"; make knows no blanks in the name of what it makes: choose a folder without)
endif

.PHONY: lab test jupyter notebooks format setup

lab: $(VENV)/.lab
	$(VENV)/bin/labutils run --profile cpu --out $(call quoted,$(OUT)) $(if $(FORCE),--force)

test: $(VENV)/.test
	$(VENV)/bin/ruff check .
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadscope --ignore tests/browser tests
	@echo "JupyterLab and the pages, in a real browser, alone: what waits for a picture measures time"
	@$(chromium) || $(VENV)/bin/playwright install chromium >/dev/null 2>&1 || echo "No Chromium, and none to be fetched"
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --durations=5 tests/browser
	@echo "The notebooks, every cell, against their stored outputs (minutes: they train)"
	$(VENV)/bin/python -m pytest --nbval-lax --nbval-current-env -x -v --durations=5 notebooks
	@echo "The whole lab through papermill, smoke profile"
	$(VENV)/bin/labutils run --profile smoke --out "$$(mktemp -d)/smoke"

jupyter: $(VENV)/.jupyter
	$(VENV)/bin/jupyter lab notebooks

# For those who change a notebook: execute it in place, so that its stored outputs belong to its code.
notebooks: $(VENV)/.test
	$(VENV)/bin/python tests/refresh_notebooks.py

format: $(VENV)/.test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

setup: $(VENV)/.lab

# Which Python the environment has and where it lies, now and when it was set up. They differ after a Python was
# upgraded, renamed or removed, and after the clone was moved or copied: nothing in the environment then works.
NOW := $(shell $(VENV)/bin/python -I -c 'import pip, sys; print(*sys.version_info[:2], sys.prefix)' 2>/dev/null)
THEN := $(shell cat $(VENV)/.python 2>/dev/null)
ifneq ($(or $(NOW),nothing),$(THEN))
.PHONY: $(VENV)/.python
endif

# Only what carries our prompt is made anew; an environment of someone's own is used while it works.
$(VENV)/.python:
ifneq ($(and $(NOW),$(if $(THEN),,unknown)),)
	@echo "Using the environment that is in $(VENV)"
else
	@command -v $(call quoted,$(PYTHON)) >/dev/null || { echo "No $(PYTHON) found. Install Python 3.10 or newer, or: make PYTHON=/path/to/python3"; exit 1; }
	@$(call quoted,$(PYTHON)) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$$($(call quoted,$(PYTHON)) --version) is too old; the lab needs 3.10 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@$(call quoted,$(PYTHON)) -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python has no venv module. On Debian or Ubuntu: sudo apt install python3-venv. Elsewhere install Python from python.org, or use conda (see README.md)."; exit 1; }
	@test ! -e $(VENV) || grep -qs '^prompt.*labutils' $(VENV)/pyvenv.cfg || { echo "$(VENV) is there, does not work, and was not made by make: move it away, or choose another folder with VENV=FOLDER"; exit 1; }
	@test ! -e $(VENV) || echo "$(VENV) no longer works here (its Python, or its folder, is another than at its making); making it anew"
	@echo "Making a virtual environment in $(VENV)"
	$(call quoted,$(PYTHON)) -m venv --clear --prompt labutils $(VENV)
endif
	@$(VENV)/bin/python -I -c 'import sys; print(*sys.version_info[:2], sys.prefix)' >$@

# A stamp per set of extras: installing again happens only when pyproject.toml, or the environment, has changed.
$(VENV)/.lab: pyproject.toml $(VENV)/.python
	@echo "Installing the lab; the first time this fetches torch, which takes minutes"
	$(if $(TORCH_INDEX),$(PIP) install torch torchvision --index-url $(call quoted,$(TORCH_INDEX)))
	$(PIP) install -e .
	@touch $@

$(VENV)/.test: $(VENV)/.lab
	$(PIP) install -e '.[test,teach,jupyter,browser]'
	@touch $@

$(VENV)/.jupyter: $(VENV)/.lab
	$(PIP) install -e '.[jupyter]'
	@touch $@
