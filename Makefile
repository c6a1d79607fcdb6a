# Everything runs in .venv. The first line of a fresh machine: `make demo` or `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test slow lint types check lock clean

setup: $(READY)

# torch first and exactly: anything looser, or torch as somebody's dependency, may pull gigabytes of CUDA packages.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(READY)

# The main job, offline: MiniLM adapted to the documentation strings of the installed Python, in about 6 minutes.
demo: $(READY)
	$(BIN)/retromae demo --output_dir runs/demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

slow: $(READY)
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: test lint types

# Rewrites the lock from what is installed now.
lock: $(READY)
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -v '^retromae' > requirements.lock

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
