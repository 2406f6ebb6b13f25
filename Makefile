# Two commands do everything on a machine with python3, make and gcc: `make demo` and `make test`.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH := $(VENV)/.bench
export DO_NOT_TRACK := 1
export RAY_USAGE_STATS_ENABLED := 0
# compiled modules are kept: hundreds of processes start in the tests, each of which would compile thousands of them anew
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test conformance lint bench uplift wheels clean

demo: $(READY)
	$(BIN)/python examples/record_demo.py demo/sources
	$(BIN)/data-engine curate examples/demo.yaml --lake demo/lake

test: $(READY)
	$(BIN)/pytest -n 2 -m "not conformance"

conformance: $(READY)
	$(BIN)/pytest -m conformance

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/one_less.py
	$(BIN)/python benchmarks/mutual_information.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/learned.py
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/rlds.py
	$(BIN)/python benchmarks/vision.py
	$(BIN)/python benchmarks/service.py
	$(BIN)/python benchmarks/long_source.py --quick

uplift: $(BENCH)  # hours; begun again, it goes on where it was
	$(BIN)/python benchmarks/uplift.py --cache demo/uplift

wheels: $(READY)
	$(BIN)/uv build --wheel --out-dir dist .
	$(BIN)/uv build --wheel --out-dir dist infra/light

clean:
	rm -rf demo dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[demo,dev]"
	touch $(READY)

$(BENCH): $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[bench,demo,dev]"
	touch $(BENCH)
