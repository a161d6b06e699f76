# Everything here is one line you could type yourself. A fresh machine needs Python >= 3.10 and pip.
PYTHON ?= python3
OLDEST ?= python3.10
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q

.PHONY: venv demo test test-all test-keops test-pages test-oldest lint ci examples bench gpu docs wheel clean

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

# With the slow tests, with new examples of the properties, and the lines that none of them ran. In
# one process, because some of them measure time and threads; coverage adds up by itself under -n, too.
test-all: venv
	$(PYTEST) -m "not gpu" --hypothesis-profile=long --cov --cov-report=term

test-keops: venv
	$(PYTEST) -m keops

# The lower bounds of pyproject.toml, each installed as it stands there. Needs Python 3.10 (OLDEST=
# says where), a C++ compiler and, without a CPU build of torch within pip's reach, 7 GB for its CUDA.
test-oldest:
	$(OLDEST) -m venv build/oldest
	sed -nE 's/^ +"([A-Za-z-]+)(\[.*\])?>=([0-9.]+)",?$$/\1==\3/p' pyproject.toml > build/oldest.txt
	build/oldest/bin/python -m pip install --quiet --constraint build/oldest.txt --editable ".[test]"
	build/oldest/bin/python -m pytest -q -n 2 --without-keops

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

examples: venv
	for script in examples/[0-9]*.py; do echo "== $$script"; $(BIN)/python $$script --quick || exit 1; done

# Those of the pages that the docs leave out, at quick size.
test-pages: venv
	$(PYTEST) -m slow -k leave_out tests/examples

ci: lint test test-keops test-pages docs  # the docs run the other examples

# Hours in all; each script says what it measures, and most take up where they were stopped.
bench: venv
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	for script in benchmarks/bench_*.py; do \
	  case $$script in *bench_transport.py) what=run;; *bench_gpu.py) continue;; *) what=;; esac; \
	  echo "== $$script $$what"; $(BIN)/python $$script $$what || exit 1; \
	done

# On a machine with a card, under eight minutes: docs/gpu.md says what it measures.
gpu: venv
	$(BIN)/python benchmarks/bench_gpu.py

# The pages, in build/docs, with every example run at quick size; what has not changed is kept.
# DOCSFLAGS="-D plot_gallery=0" leaves the examples out. Sphinx needs Python 3.11.
docs: venv
	@$(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11) and 'make docs needs Python 3.11 or newer, got ' + sys.version.split()[0] + '; make clean, then make docs PYTHON=python3.11')"
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python -m sphinx -W -q -b html $(DOCSFLAGS) docs build/docs
	$(BIN)/python docs/check_links.py build/docs

# A wheel, installed with what it asks for (GBs of CUDA, unless pip finds a CPU build of torch) into
# an environment that holds nothing else; -I, so that the checkout is not on the path.
wheel: venv
	rm -rf dist build/empty
	$(BIN)/python -m build --wheel
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet dist/*.whl
	build/empty/bin/python -m pip check
	for file in $$(git ls-files aeot); do ls build/empty/lib/python3.*/site-packages/$$file > /dev/null || exit 1; done
	build/empty/bin/python -I -c "import aeot; [getattr(aeot, name) for name in aeot.__all__]"
	build/empty/bin/aeot --help > /dev/null
	rm -rf build/empty

clean:
	rm -rf $(VENV) build dist *.egg-info docs/api docs/gallery examples/out
