SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: help demo test torture bench check format coverage lock image image-check clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/run.stamp ## Set everything up and show it at work (DEMO_ARGS=--once ends by itself)
	@$(BIN)/reconciler demo $(DEMO_ARGS)

test: $(VENV)/dev.stamp ## Set everything up and run the tests
	$(BIN)/python -m pytest -n auto $(TEST_ARGS)

torture: $(VENV)/dev.stamp ## Run the long fault-injection suites (SEED=n replays one)
	$(BIN)/python -m pytest -n auto -m torture $(TEST_ARGS)

bench: $(VENV)/dev.stamp ## Measure it beside what one would use instead, and print the ratios
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

check: $(VENV)/dev.stamp ## Run the linters: ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(VENV)/dev.stamp ## Demand that the core's own tests walk every branch of the pure core
	$(BIN)/python -m pytest -q -n auto tests/core --cov --cov-branch --cov-report= $(TEST_ARGS)
	$(BIN)/python -m coverage report --include="$$($(BIN)/python tools/core_modules.py)" --fail-under=100

lock: ## Lock the dependencies anew, with hashes (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --upgrade pyproject.toml -o requirements/run.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --upgrade --group build -c requirements/run.txt -o requirements/build.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --upgrade --group dev pyproject.toml -c requirements/run.txt -c requirements/build.txt -o requirements/dev.txt

image: ## Build the container image
	docker build -t reconciler .

image-check: $(VENV)/run.stamp ## Run the Dockerfile's steps and its entry point without an engine (root, debootstrap)
	$(BIN)/python tools/try_image.py

clean: ## Remove everything that was made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .import_linter_cache

$(VENV)/made.stamp: tools/venv.sh
	@echo "making a virtual environment in $(VENV)"
	@tools/venv.sh $(VENV)
	@touch $@

$(VENV)/run.stamp: $(VENV)/made.stamp requirements/run.txt requirements/build.txt pyproject.toml
	@echo "installing the locked dependencies"
	@$(PIP) install --require-hashes -r requirements/run.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements/dev.txt
	@echo "installing the locked development tools"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
