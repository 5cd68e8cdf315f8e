# The two commands: `make lab` and `make test`. Both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# cpu or cuda; which lock file is installed
ACCELERATOR ?= $(if $(shell command -v nvidia-smi 2>/dev/null),cuda,cpu)
LOCK := requirements/$(ACCELERATOR).txt
INSTALLED := $(VENV)/.installed-$(ACCELERATOR)
# where the CPU build of torch is found if the default index has none
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# where Python may not keep what it compiles, every process would compile transformers anew: ten seconds each
COMPILE := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
UV_VERSION := $(shell sed -n 's/^uv==//p' $(LOCK))
JOBS ?=

.PHONY: lab stories install lock stage-versions format lint test test-all bench-ppo bench-statistics bench-data clean

lab: install
	$(BIN)/align run lab/sft-vs-rlhf $(if $(JOBS),--jobs $(JOBS))

stories: install
	$(BIN)/align run stories/sentiment $(if $(JOBS),--jobs $(JOBS))

install: $(INSTALLED)

# The lock is complete, so nothing is resolved here: --no-deps. uv installs it in seconds; pip serves where uv finds no index.
$(INSTALLED): $(LOCK) pyproject.toml
	@echo "installing the $(ACCELERATOR) environment into $(VENV) (3 GB; half a minute on a fast line)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
ifeq ($(ACCELERATOR),cpu)
	@if [ "$$(uname)" = Linux ] && ! $(BIN)/python -m pip install --quiet --no-deps torch==2.13.0+cpu 2>/dev/null; then \
		echo "the default index has no CPU build of torch: taking it from $(TORCH_CPU_INDEX)"; \
		$(BIN)/python -m pip install --quiet --no-deps --index-url $(TORCH_CPU_INDEX) torch==2.13.0+cpu; fi
endif
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(COMPILE) -r $(LOCK) \
		|| $(BIN)/python -m pip install --quiet --no-deps -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Renew the lock files. CUDA's own packages and triton are of no use on a CPU.
lock:
	$(BIN)/uv pip compile requirements/cpu.in --override requirements/override.txt --python-version 3.11 --no-header --no-annotate \
		| sed -e '/^nvidia-/d' -e '/^cuda-/d' -e '/^triton/d' -e 's/^torch==2.13.0+cpu/torch==2.13.0/' > requirements/cpu.txt
	$(BIN)/uv pip compile requirements/cuda.in --python-version 3.11 --no-header --no-annotate \
		| sed -e 's/^torch==2.13.0+cpu/torch==2.13.0/' > requirements/cuda.txt

# After raising a stage's version in recipes/stages.py.
stage-versions: install
	$(BIN)/python tests/unit/recipes/test_stage_versions.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: lint
	$(BIN)/python -m pytest

# Against trl 1.12's PPOTrainer; 25 minutes on two idle cores. The last line is one JSON object.
bench-ppo: install
	@$(BIN)/python -m benchmarks.ppo

# Coverage of the intervals, errors and power of the tests, by simulation. The last line is one JSON object.
bench-statistics: install
	@$(BIN)/python -m benchmarks.statistics

# Memory of SFT on a file of 2 GB, made on the spot; 10 GB of disk. The last line is one JSON object.
bench-data: install
	@$(BIN)/python -m benchmarks.data

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
