# Two commands for a newcomer: `make train` and `make test`. What the first needs is put into .venv by `make install`, what the
# second needs besides by `make build`.
# With another interpreter (make test PYTHON=python3.13) into a folder of its own.
PYTHON ?= python3
VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
STAMP := $(VENV)/.built
USABLE := $(VENV)/.usable
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Many tests wait for processes: two at a time take a quarter less, and two cores carry them.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: install build train test test-all bench bench-sim bench-compression bench-layouts bench-feed bench-fleet check-gpu lint format docs proto clean

install: $(USABLE)

build: $(STAMP)

$(USABLE): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; set PYTHON=/path/to/python3.11 or later"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or later is needed; set PYTHON="; exit 2; }
	@echo "installing roadtrain and what it needs into $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[digits,plots]'
	@touch $(USABLE)

$(STAMP): $(USABLE)
	@echo "installing what developers use into $(VENV)"
	$(PIP) -e '.[dev]'
	@touch $(STAMP)

train: install
	$(BIN)/roadtrain run gpt --workers 2

test: build lint
	$(PYTEST) -m "not long"

test-all: build lint
	ROADTRAIN_SEEDS=all $(PYTEST)

bench: build
	$(BIN)/python bench/codecs.py
	$(BIN)/python bench/strategies.py
	$(BIN)/python bench/simulator.py

bench-sim: build
	$(BIN)/python bench/predict.py

bench-compression: build
	$(BIN)/python bench/compression.py

bench-layouts: build
	$(BIN)/python bench/layouts.py

bench-feed: build
	$(BIN)/python bench/feed.py

bench-fleet: build
	$(BIN)/python bench/fleet_load.py

check-gpu: build
	$(BIN)/python bench/check_gpu.py

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python docs/make_plan_page.py --check || { echo "error: docs/plan.md is stale: run make docs"; exit 1; }
	$(BIN)/pyright

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: build
	$(BIN)/python docs/make_plan_page.py

proto: build
	PATH="$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Isrc/roadtrain/wire --python_out=src/roadtrain/wire --mypy_out=src/roadtrain/wire src/roadtrain/wire/roadtrain.proto

clean:
	rm -rf .venv .venv-* runs
