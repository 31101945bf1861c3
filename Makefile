# `make demo` on a fresh machine sets up and generates a first sound. Needs Python 3.10 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
SOUND := demo/dog-barking-in-rain

.PHONY: setup demo test lint docs bench

setup: $(INSTALLED)

# The stamp is written last, so that an interrupted setup is repeated and a complete one is not.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"Python 3.10 or later is needed, this is {sys.version}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable ".[train,studio]"
	@touch $@

# Separate from the above, as diffusers and transformers import scipy, which the tests need, wherever
# it is installed, and every command would start later.
$(INSTALLED_DEV): $(INSTALLED)
	$(BIN)/python -m pip install --editable ".[dev]"
	@touch $@

demo: $(INSTALLED)
	@mkdir -p demo
	HF_HUB_OFFLINE=1 $(BIN)/auffusion generate "dog barking in rain" -o $(SOUND).wav --spectrogram $(SOUND).png --overwrite

test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/make_reference.py --check

docs: $(INSTALLED_DEV)
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_training_keys.py

bench: $(INSTALLED)
	@for script in benchmarks/*.py; do \
		echo "== $$script"; $(BIN)/python $$script || failed="$$failed $$script"; \
	done; if [ -n "$$failed" ]; then echo "not met:$$failed"; exit 1; fi
