# `make demo` and `make test` install what they need into .venv; nothing else is required.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_WAIT_POLICY ?= PASSIVE
export ORT_DISABLE_TELEMETRY := 1
JOBS ?= 2
# One file's tests stay together: they share fixtures that are dear to make.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

.PHONY: demo test test-slow test-all check docs bench clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cpu,serve,dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/retort run examples/digits.yaml

test: $(STAMP)
	$(PYTEST) -m "not slow and not gpu"

test-slow: $(STAMP)
	$(PYTEST) --dist worksteal -m "slow and not gpu"

test-all: test test-slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m retort.docs.generate

bench: $(STAMP)
	$(BIN)/retort run examples/resnet.yaml

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache logs
