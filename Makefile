# `make demo` and `make test` do all set-up on a machine with Python 3.11 or newer, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# step TITLE COMMAND...: run a command; print its title before and its duration after it
STEP := step() { title=$$1; shift; start=$$(date +%s); echo "$$title ..."; "$$@" || { status=$$?; \
	echo "$$title: failed with status $$status"; return $$status; }; \
	echo "$$title: done in $$(($$(date +%s) - start)) s"; }; step
# some containers set it, and then each of the hundreds of processes of the tests compiles all imported modules again
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

.PHONY: setup setup-test demo test test-full lint docs build constraints clean

# the package alone: everything that `make demo` needs
setup: $(VENV)/.ready

# also all extras, the linters and the packages that the tests need
setup-test: $(VENV)/.test-ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "etude needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	@$(STEP) "Environment in $(VENV)" $(PYTHON) -m venv $(VENV)
	@$(STEP) "Installer uv" $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(STEP) "Packages of etude (several GB on the first download)" $(INSTALL) --editable .
	@touch $@

$(VENV)/.test-ready: $(VENV)/.ready
	@$(STEP) "Packages for tests" $(INSTALL) --editable '.[dev]'
	@touch $@

demo: setup
	@$(STEP) "Training on the demo clips" $(BIN)/python train.py

test: setup-test lint
	@# one thread per process: on two cores, more threads are slower
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --durations=20

# also the exhaustive tests and fuzzers
test-full: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --durations=20 -m full

lint: setup-test docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# the documentation in site/; a broken link, a missing anchor or a file from another server is an error
docs: setup-test
	$(BIN)/python scripts/docs_reference.py
	$(BIN)/zensical build --strict
	$(BIN)/python scripts/docs_reference.py --check site

# wheel and source distribution in dist/, checked as an index would
build: setup-test
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# the newest versions that pyproject.toml allows, without addresses of registries
constraints: setup
	echo uv | $(BIN)/uv pip compile --quiet --upgrade --python $(BIN)/python --extra dev --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml - -o constraints.txt

clean:
	rm -rf $(VENV) dist build site .cache .pytest_cache .mypy_cache .ruff_cache
