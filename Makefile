# Everything here is one line you could type yourself. A fresh machine needs Python >= 3.10 and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q

.PHONY: venv demo test test-all test-keops lint ci examples bench docs clean

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: venv
	$(BIN)/python -m aeot demo

# The default suite: no network, no GPU, and pykeops made unimportable.
test: venv
	$(PYTEST) -n 2 --without-keops

test-all: venv
	$(PYTEST) -m "not gpu"

test-keops: venv
	$(PYTEST) -m keops

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

examples: venv
	for script in examples/[0-9]*.py; do echo "== $$script"; $(BIN)/python $$script --quick || exit 1; done

ci: lint test test-keops examples

# Hours in all; each script says what it measures, and most take up where they were stopped.
bench: venv
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	for script in benchmarks/bench_*.py; do \
	  case $$script in *bench_transport.py) what=run;; *) what=;; esac; \
	  echo "== $$script $$what"; $(BIN)/python $$script $$what || exit 1; \
	done

docs: venv
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) build dist *.egg-info
