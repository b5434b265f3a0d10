# Two commands: `make demo` takes a fresh clone to an aligned model and its report, `make test` checks everything quick.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo venv test check-slow bench-quick bench clean

demo: $(VENV)/.core
	$(BIN)/kilter run sandbox

venv: $(VENV)/.dev

# Stamps: an install is done once, and again when what it depends on changes.
# torch comes first and pinned, so that resolving the rest never replaces it by another build.
$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -e '.[dev]'
	touch $@

test: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not slow'

check-slow: $(VENV)/.dev
	env -u OMP_NUM_THREADS $(BIN)/python -m pytest -m slow

# Side by side with the peers; bench.py makes the virtual environments of all sides in benchmarks/.work, once.
bench-quick:
	$(PYTHON) benchmarks/bench.py --quick

bench:
	$(PYTHON) benchmarks/bench.py --full

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
