# Everything sets itself up: a fresh machine needs make and Python 3.11, 3.12 or 3.13.

PYTHON ?= python3
VENV := .venv
GPU := .cache/gpu
TPU := .cache/tpu
SIMULATOR := .cache/metaworld
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q
PYTEST := $(BIN)/python -m pytest
TORCH ?= 2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

export JAX_PLATFORMS ?= cpu
# Huge pages for malloc: without them a step's buffers are a page fault every 4 kB (docs/speed.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax

.PHONY: studio mine test parity test-all mutants fuzz oldest newest wheel demo demo-train demo-train-gpu demo-more4d demo-hvg robots bench browser plan-gpu plan-rows lint docs \
  setup clean

test: $(VENV)/test
	$(PYTEST)

parity: $(VENV)/parity
	$(PYTEST) -m parity

test-all: $(VENV)/parity
	$(PYTEST) -m "not accelerator"

mutants: $(VENV)/test
	$(BIN)/python tests/mutants.py $(MUTANTS_ARGS)

fuzz: $(VENV)/test
	$(BIN)/python tests/fuzz/fuzz.py $(FUZZ_ARGS)

oldest: $(VENV)/test
	$(BIN)/python tests/versions.py oldest $(VERSIONS_ARGS)

newest: $(VENV)/test
	$(BIN)/python tests/versions.py newest $(VERSIONS_ARGS)

wheel: $(VENV)/test
	$(BIN)/python tests/wheel.py

demo: $(VENV)/test
	$(BIN)/python demo/make.py $(DEMO_ARGS)

studio: $(VENV)/test
	$(BIN)/python demo/doors.py studio $(STUDIO_ARGS)

mine: $(VENV)/test
	$(BIN)/python demo/doors.py mine --images $(IMAGES) --cameras "$(CAMERAS)" --prompt "$(PROMPT)" $(MINE_ARGS)

robots: $(VENV)/test $(SIMULATOR)/made
	$(BIN)/python demo/robots.py $(ROBOTS_ARGS)

demo-train: $(VENV)/test
	$(BIN)/python demo/make.py --train

# With a python that has jax[cuda] and the packages of setup.py: nothing is installed here.
demo-train-gpu:
	JAX_PLATFORMS=cuda,cpu $(PYTHON) demo/train_gpu.py --package $(PACKAGE) $(GPU_ARGS)

demo-hvg: $(VENV)/test
	$(BIN)/python demo/hvg.py $(DEMO_ARGS)
demo-more4d: $(VENV)/test
	$(BIN)/python demo/more4d.py $(DEMO_ARGS)

bench: $(VENV)/parity
	$(BIN)/python benchmarks/run.py

plan-gpu: $(GPU)/made
	@$(GPU)/bin/python -c 'import jax_cuda12_plugin' || { echo "plan-gpu: wanted jax_cuda12_plugin in \
	  $(GPU), where it was installed; remove $(GPU) and run make plan-gpu again" >&2; exit 1; }
	$(GPU)/bin/python -m pytest -m gpu_aot tests/machines/planning/test_gpus.py $(PLAN_GPU_ARGS)

# The tables of docs/pods.md: an hour of a core; PLAN_ROWS_ARGS="--only h100-8" for some of them.
plan-rows: $(GPU)/made $(TPU)/made
	$(GPU)/bin/python benchmarks/plan_rows.py --of gpus --quiet $(PLAN_ROWS_ARGS)
	$(TPU)/bin/python benchmarks/plan_rows.py --of tpus --quiet $(PLAN_ROWS_ARGS)
	$(BIN)/python benchmarks/plan_rows.py --table $(PLAN_ROWS_ARGS)

browser: $(VENV)/test
	$(PYTEST) -n 0 -m browser

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/biome check --error-on-warnings

docs: $(VENV)/docs
	$(BIN)/python docs/site.py

setup: $(VENV)/test

clean:
	rm -rf $(VENV) .cache

$(VENV)/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(0 if (3, 11) <= v < (3, 14) else f"wanted Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}; make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/test: $(VENV)/made setup.py
	$(PIP) -e '.[test]'
	@touch $@

$(VENV)/docs: $(VENV)/test
	$(PIP) -e '.[docs]'
	@touch $@

# PyTorch without CUDA from the configured index, else from its own, else what the default has.
$(VENV)/parity: $(VENV)/test
	$(PIP) 'torch==$(TORCH)+cpu' || $(PIP) 'torch==$(TORCH)' --index-url $(TORCH_INDEX) || $(PIP) 'torch==$(TORCH)'
	$(PIP) -e '.[test,parity]' accelerate
	@touch $@

# The simulator wants other versions of what we use: it has an environment of its own.
$(SIMULATOR)/made: requirements/metaworld.txt
	$(PYTHON) -m venv $(SIMULATOR)
	$(SIMULATOR)/bin/python -m pip --disable-pip-version-check install -q -r requirements/metaworld.txt
	@touch $@

# What compiles for GPUs that are not there, in an environment of its own that sees the other's
# packages: beside the CUDA plugin a plain jax.devices() looks for a GPU and logs that there is none.
$(GPU)/made: $(VENV)/test
	$(BIN)/python -m venv $(GPU)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(GPU)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	version=$$($(BIN)/python -c 'import jax; print(jax.__version__)'); \
	  $(GPU)/bin/python -m pip --disable-pip-version-check install -q --no-deps \
	  jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version \
	  || { echo "plan-gpu: pip found no jax-cuda12-plugin and jax-cuda12-pjrt $$version (two wheels" \
	  "of 180 MB together, from PyPI): nothing is lowered for GPUs without them" >&2; exit 1; }
	@touch $@

# libtpu likewise, of the version that jax asks for: beside it a plain jax.devices() looks for a TPU.
$(TPU)/made: $(VENV)/test
	$(BIN)/python -m venv $(TPU)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(TPU)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	wanted=$$($(BIN)/python -c 'import importlib.metadata as m; print(next(x.split(";")[0] \
	  for x in m.requires("jax") if x.startswith("libtpu")))'); \
	  $(TPU)/bin/python -m pip --disable-pip-version-check install -q --no-deps "$$wanted" \
	  || { echo "plan-rows: pip found no $$wanted (a wheel of 210 MB, from PyPI): nothing is" \
	  "compiled for TPUs without it" >&2; exit 1; }
	@touch $@
