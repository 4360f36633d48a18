# Every target makes .venv when it is needed. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# MLX comes with Metal on macOS; on Linux one of two exclusive extras brings it.
ifeq ($(shell uname -s),Linux)
EXTRA ?= $(if $(shell command -v nvidia-smi 2>/dev/null),cuda13,cpu)
endif

# Tests wait for daemons and for time to pass: twice as many processes as cores.
TESTERS ?= $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))')

.PHONY: help install demo serve test test-long soak bench bench-quick demo-model docs lock release check format clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Make .venv with pinned versions

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--group dev -e '.$(if $(EXTRA),[$(EXTRA)])'
	@touch $@

demo: install ## The main job on a real model, start to finish
	@$(BIN)/reconciler demo

serve: install ## Run the daemon with its defaults
	@$(BIN)/reconciler serve

test: install ## The test suite: bounded and deterministic
	$(BIN)/pytest -m "not long" --ignore tests/long -n $(TESTERS) --dist worksteal

test-long: install ## Storms and fuzzing
	$(BIN)/pytest -m long

soak: install ## Ten minutes of changes, faults and chats; fails where something leaks
	$(BIN)/python -m tests.soak

bench: install ## Measure, as ratios; ten minutes, 4 GB in /tmp; writes bench.json. PEERS=1: other servers
	$(BIN)/python -m benchmarks $(if $(PEERS),--peers) --json bench.json

bench-quick: install ## The same with small checkpoints, in less than a minute
	$(BIN)/python -m benchmarks $(if $(PEERS),--peers) --quick

demo-model: install ## Train the demo's model anew; minutes, with OpenBLAS preloaded
	$(BIN)/python -m reconciler.demo.train reconciler/demo/model

docs: install ## Fill the tables in docs/ from the schemas
	$(BIN)/python -m docs.tables

lock: ## Write requirements.lock: the versions in constraints.txt with hashes; needs uv
	uv pip compile --quiet --universal --python-version 3.11 --only-binary :all: --extra cpu \
		--constraints constraints.txt --generate-hashes --no-annotate --no-header \
		--output-file requirements.lock pyproject.toml

release: install ## Commit, tag and build a release: make release VERSION=0.2.0 [DRY_RUN=1]
	$(BIN)/python -m tools.release $(VERSION) $(if $(DRY_RUN),--dry-run)

check: install ## Lint, format, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## Rewrite the code as the linter wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the other targets made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find reconciler tests -name __pycache__ -type d -exec rm -rf {} +
