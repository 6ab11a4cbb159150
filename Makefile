# make demo       the whole story in minutes: train, adapt, compare, report (offline once installed)
# make demo-llm   the same with a real language model, SmolLM2-135M, fetched on first use; SUITE=my_tasks for your own tasks
# make test       the default tests            make test-slow   the long ones as well
# make test-floor      the adapters' tests with the lowest peft that pyproject.toml allows
# make test-triton  the GPU kernels, interpreted on the processor; fetches triton (290 MB) into build/
# make test-quantised  4-bit and 8-bit base models; fetches bitsandbytes (60 MB) into build/
# make docs       the documentation as a site, in build/site; strict, and offline once installed
# make lint       style, layers and types      make format      fix the style
# make clean      remove what these commands made, but for the results in runs/

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo demo-llm test test-slow test-floor test-triton test-quantised docs lint format install clean

demo: $(STAMP)
	$(BIN)/abmll demo -o runs/demo

demo-llm: $(STAMP)
	$(BIN)/abmll demo --model smollm2 --seeds 1 $(if $(SUITE),--suite '$(SUITE)') -o 'runs/demo-llm$(if $(SUITE),-$(notdir $(patsubst %/,%,$(SUITE))))'

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow or not slow"

# Beside the environment, not into it: PYTHONPATH puts the old one first for this one command.
FLOOR := $(shell sed -n 's/^ *"peft>=\([0-9.]*\)".*/\1/p' pyproject.toml)
test-floor: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/peft-$(FLOOR) peft==$(FLOOR)
	PYTHONPATH=build/peft-$(FLOOR) $(BIN)/python -c 'import peft; assert peft.__version__.startswith("$(FLOOR)."), peft'
	PYTHONPATH=build/peft-$(FLOOR) $(BIN)/python -m pytest -n 2 tests/adapters

# Beside the environment and not in it: PyTorch's CUDA builds bring triton along, its CPU build needs none. The first
# run interprets the kernels, the second compiles them for GPUs that need not be here.
TRITON := build/triton
test-triton: $(STAMP) $(TRITON)/.installed
	TRITON_INTERPRET=1 PYTHONPATH=$(TRITON) $(BIN)/python -m pytest tests/gaussian/test_triton.py
	PYTHONPATH=$(TRITON) $(BIN)/python -m pytest tests/gaussian/test_triton.py

$(TRITON)/.installed:
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(TRITON) triton
	@touch $@

BITSANDBYTES := build/bitsandbytes
test-quantised: $(STAMP) $(BITSANDBYTES)/.installed
	PYTHONPATH=$(BITSANDBYTES) $(BIN)/python -m pytest tests/adapters/test_quantised.py

# without its dependencies, of which torch would come again, as gigabytes of its CUDA build
$(BITSANDBYTES)/.installed:
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(BITSANDBYTES) bitsandbytes
	@touch $@

docs: $(VENV)/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html; with its search: $(BIN)/python -m http.server -d build/site"

$(VENV)/.docs-installed: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

# The stamp makes every later call start at once; a change of the dependencies installs again.
$(STAMP): pyproject.toml constraints.txt src/abmll/version.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "abmll needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 | cut -d" " -f2)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing into $(VENV): about 1.3 GB, a minute or two."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
