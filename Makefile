# Every command that people and continuous integration use. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Where the real smear images and the base weights lie; tests that need them say so and skip without.
export CYTOLOGIA_DATA ?= $(abspath ../shared/data)
export CYTOLOGIA_WEIGHTS ?= $(abspath ../shared/weights)
# Two processes whose OpenMP threads spin for each other are slower than one.
ULTRALYTICS_ENV := YOLO_CONFIG_DIR=$(abspath $(VENV))/ultralytics
TEST_ENV := OMP_NUM_THREADS=1 $(ULTRALYTICS_ENV)

.DEFAULT_GOAL := help
.PHONY: help demo test lint format chaos chaos-quick archive-proof train-demo release-engines gpu-acceptance
.PHONY: recipes benchmark-bundle benchmarks benchmarks-scale install-station uninstall-station clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

demo: $(VENV)/station ## Watch the station at work on drawn smears
	$(BIN)/edge-demo

# Files of tests go to two processes; ARGS="-n 0 -k name" for one alone.
test: lint $(VENV)/pycuda $(VENV)/bindings ## All fast tests
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/developer ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/developer ## Let ruff format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# ONLY=kills runs tests/chaos/test_kills.py alone. Folders of tests that failed are kept in the temporary folder.
CHAOS_TESTS = $(BIN)/python -m pytest -s -o tmp_path_retention_policy=failed \
	tests/chaos$(if $(ONLY),/test_$(ONLY).py)

chaos: $(VENV)/developer ## The long proofs: kill, flood, starve and fool the real station (ONLY=kills for one)
	CHAOS=full $(CHAOS_TESTS)

chaos-quick: $(VENV)/developer ## The same at a tenth or less of the size
	CHAOS=quick $(CHAOS_TESTS)

archive-proof: ## edge-archive on a cluster of two nodes with workers and a node killed; one worker and two
	$(MAKE) chaos ONLY=archive

train-demo: $(VENV)/developer ## Train and build the embedded bundle anew (an hour and three quarters on two cores)
	PATH=$(abspath $(BIN)):$$PATH training/recipes/demo.sh runs/demo

RECIPES = blog thomine xueer mpware edge
SMEARS = $(CYTOLOGIA_DATA)/smears

# ARGS=--leave-one-source-out after it adds the figures on unseen sources.
recipes: $(VENV)/developer ## Train every winning system in small, for docs/recipes.md
	for recipe in $(RECIPES); do \
		$(ULTRALYTICS_ENV) $(BIN)/python -m training.recipe training/recipes/$$recipe.toml --size small --jobs 2 \
			--csv $(SMEARS)/train.csv --validation-csv $(SMEARS)/val.csv --out runs/recipes/$$recipe $(ARGS) \
			|| exit 1; \
	done
	$(MAKE) runs/recipes/embedded/report/bench.json
	$(BIN)/python -m training.recipe_table runs/recipes --out docs/recipes.md

# The embedded bundle beside them.
runs/recipes/embedded/report/bench.json: edge/demo/bundle/manifest.json
	mkdir -p runs/recipes/embedded
	ln -sfn $(abspath edge/demo/bundle) runs/recipes/embedded/bundle
	$(BIN)/python -m training.evaluate --bundle edge/demo/bundle --csv $(SMEARS)/val.csv --out runs/recipes/embedded/report
	$(BIN)/edge-bench --images $(SMEARS)/images --count 100 --json $@

benchmarks-scale: $(VENV)/developer ## Measure how the station scales, for docs/performance.md (ten minutes)
	$(BIN)/python -m benchmarks.scale --images $(CYTOLOGIA_DATA)/pool/images

benchmark-bundle: $(VENV)/developer ## Train and build the second pair of the benchmarks (under an hour on two cores)
	$(ULTRALYTICS_ENV) PATH=$(abspath $(BIN)):$$PATH benchmarks/bundle.sh runs/benchmark

runs/benchmark/bundle/manifest.json:
	$(MAKE) benchmark-bundle

benchmarks: $(VENV)/developer runs/benchmark/bundle/manifest.json ## Measure the station beside ultralytics and its bare networks, for docs/benchmarks.md
	$(ULTRALYTICS_ENV) $(BIN)/python -m benchmarks.side_by_side --images $(CYTOLOGIA_DATA)/pool/images

# Turing to Blackwell: all that TensorRT-RTX builds for.
RELEASE_CARDS = 7.5 8.0 8.6 8.9 12.0 12.1

release-engines: $(VENV)/developer ## Build the embedded bundle's TensorRT-RTX engines for all cards, without one
	$(BIN)/python build_engines/build.py --target tensorrt-rtx --out build/release-engines \
		$(addprefix --compute-capability ,$(RELEASE_CARDS))

# It asks for no CUDA package itself: pip cannot install these without a card's driver and toolkit (docs/gpu.md).
gpu-acceptance: $(VENV)/station ## Prove the TensorRT way on this machine's card (ARGS='--images FOLDER'; docs/gpu.md)
	$(BIN)/python -m build_engines.acceptance $(ARGS)

# Both read the variables at the head of systemd/install-station, which make passes on when they are given to it.
install-station: ## Install or upgrade the service, as root (docs/station.md)
	@systemd/install-station

uninstall-station: ## Take the service back; settings, journal and results stay
	@systemd/uninstall-station

clean: ## Remove the environment and all that was built
	rm -rf $(VENV) build runs *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The station alone: no torch.
$(VENV)/station: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing the station into $(VENV)"
	$(PIP) --editable .
	@touch $@

# ultralytics and yolox ask for opencv-python, which shares its files with opencv-python-headless and wants
# libGL.so.1, which a bare server has not: the headless one is put back over it.
$(VENV)/developer: $(VENV)/station
	@echo "installing the training and test packages into $(VENV) (torch is large)"
	$(PIP) --editable '.[training,onnxruntime,rtx,serving,archive,dev]'
	$(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless
	$(PIP) --no-deps opencv-python-headless
	@# Triton's own server, for the tests. Its package asks for an older NumPy, which its server does not need.
	$(PIP) --no-deps nvidia-pytriton
	@touch $@

# The real pycuda, for the tests' double of the CUDA driver: a minute and a half of compiling.
$(VENV)/pycuda: $(VENV)/developer tests/fakecuda/install_pycuda
	@echo "compiling pycuda"
	tests/fakecuda/install_pycuda $(BIN)/python
	@touch $@

# TensorRT's bindings, to hold the code against; they are never run.
$(VENV)/bindings: $(VENV)/developer
	$(PIP) --no-deps --target $@/10.16 tensorrt-cu12-bindings==10.16.1.11
	$(PIP) --no-deps --target $@/11.4 tensorrt-cu13-bindings==11.4.0.106
	@touch $@
