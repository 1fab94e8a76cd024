# Two commands do everything on a fresh machine with Python 3.11+, make and git: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-full lint constraints clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "etude needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@# a process of a run imports for 7 s and not for 15; what other Pythons' syntax a package holds is left
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null 2>&1 || true
	@touch $@

demo: setup
	$(BIN)/python train.py

test: setup lint
	@# a thread for each of the two processes: on two cores, four get in each other's way
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --durations=20

# exhaustive matrices and fuzzers, which take longer than anybody waits for every day
test-full: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --durations=20 -m full

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# newest versions that fit pyproject.toml, without the address of any registry
constraints: setup
	echo uv | $(BIN)/uv pip compile --quiet --upgrade --python $(BIN)/python --extra dev --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml - -o constraints.txt

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
