# Everything runs in .venv, made from constraints.txt and pyproject.toml.

REPO ?= .
OUT ?= site
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: docs test check bench peers clean

docs: $(READY)  ## build the documentation of REPO (a folder or a git address) into OUT
	$(BIN)/docmill build "$(REPO)" --out "$(OUT)" --prefect

# Threads of one process that wait sleep, and leave their core to the others.
test: $(READY)  ## run the tests, each file in one of some processes
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --durations=12

check: $(READY)  ## lint, types, the layer rule
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## run the benchmarks; results go to benchmarks/results/
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/signatures.py
	$(BIN)/python benchmarks/releases.py
	$(BIN)/python benchmarks/gate.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/roofline.py

PEERS := $(addprefix benchmarks/peers/.venv-,openvino ctranslate2 llamacpp)

peers: $(addsuffix /.ready,$(PEERS))  ## install what benchmarks/engine.py compares with

benchmarks/peers/.venv-%/.ready: benchmarks/peers/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## remove the virtual environment
	rm -rf $(VENV)
