# Every target sets itself up: the first one installs the project into .venv, or into the environment that is
# active (not under CI). PYTHON chooses the interpreter of a new .venv; pip's own settings are left alone.

PYTHON ?= python3
VENV ?= $(if $(CI),.venv,$(or $(VIRTUAL_ENV),.venv))
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz lint docs mutation bench zoo trajectories adapters oldest clean

help:
	@echo "make demo      bounds of six networks trained on real images"
	@echo "make test      lint, types and tests"
	@echo "make fuzz      the tests with random examples, MINUTES=10 by default; may be interrupted"
	@echo "make lint      ruff and mypy alone"
	@echo "make docs      what docs/ shows, computed again"
	@echo "make mutation  break the theorems' terms one by one; the tests must notice each"
	@echo "make bench     timings and growth, beside other ways; some 25 minutes, results in build/bench"
	@echo "make zoo       bounds of some 230 architectures, written to docs/coverage.md; may be interrupted"
	@echo "make trajectories"
	@echo "               the experiments on training, written to docs/trajectories.md; may be interrupted"
	@echo "make adapters  the tests of the callbacks for Lightning and Hugging Face, with these packages"
	@echo "make oldest    the tests with the oldest versions that pyproject.toml admits; torch brings CUDA, some 5 GB"
	@echo "make clean     remove .venv, caches and builds"

# An environment may serve another clone, or have moved with its folder: the stamp names the clone it was made for.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml setup.py .ci/constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -c .ci/constraints.txt -e '.[dev]'
	echo '$(CURDIR)' > $@

demo: $(STAMP)
	$(VENV)/bin/covergraph demo

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m mypy

# One thread per worker: two workers with two threads each would fight for two cores.
test: export OMP_NUM_THREADS = 1
test: lint
	$(PY) -m pytest -n 2 --ignore=tests/benchmarks

fuzz: export OMP_NUM_THREADS = 1
fuzz: $(STAMP)
	$(PY) tests/fuzz.py --minutes $(or $(MINUTES),10)

docs: $(STAMP)
	$(PY) docs/build.py

mutation: $(STAMP)
	$(PY) tests/mutation.py

bench: $(STAMP)
	$(PY) tests/benchmarks/bench_derive.py
	$(PY) tests/benchmarks/bench_norms.py
	$(PY) tests/benchmarks/bench_recorder.py

# A run goes on where the last one stopped; make zoo AGAIN=--again starts anew.
zoo: export OMP_NUM_THREADS = 1
zoo: $(STAMP)
	$(PY) -m pip install -q -c .ci/constraints.txt -e '.[dev,zoo]'
	$(PY) tests/zoo/run.py --workers 2 --out build/zoo $(AGAIN)
	$(PY) tests/zoo/run.py --report --out build/zoo

# A run goes on where the last one stopped; its results are in build/trajectories.
trajectories: export OMP_NUM_THREADS = 1
trajectories: $(STAMP)
	$(PY) -m pip install -q -c .ci/constraints.txt -e '.[dev,experiments]'
	$(PY) docs/experiments/trajectories/run.py $(FULL)

adapters: $(STAMP)
	$(PY) -m pip install -q -c .ci/constraints.txt -e '.[dev,training]'
	$(PY) -m pytest tests/trajectory/test_adapters.py

# Versions of their own, so an environment of its own; .ci/oldest.txt has the lower ends of pyproject.toml.
oldest: export OMP_NUM_THREADS = 1
oldest:
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -q -c .ci/oldest.txt -e . hypothesis pytest pytest-xdist 'setuptools>=77'
	.venv-oldest/bin/python -m pytest -n 2 --ignore=tests/benchmarks

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
