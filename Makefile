# make demo   install into .venv and open napari on the sample datacube (without a display: write demo-out/)
# make test   install the test extra and what a bare Debian lacks, run all tests
# make lint   ruff and mypy
# make bench  accuracy and speed tables against peers

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# The newest torch brings gigabytes of CUDA; tests and training on a CPU need this release only.
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=

.PHONY: demo test lint bench system-packages clean

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "napari-emdl needs Python >= 3.11 on PATH (python3-venv on Debian)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	@touch $@

$(VENV)/.test: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' numpy || \
		echo "torch is not to be had here: training tests will be skipped"
	if $(BIN)/python -c 'import torch' 2>/dev/null; then extras='all,test,train,cluster'; else extras='all,test,cluster'; fi; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$$extras]"
	@touch $@

demo: $(VENV)/.app
	@bash scripts/system-packages.sh demo
	$(BIN)/napari-emdl demo --out demo-out

test: $(VENV)/.test system-packages
	$(BIN)/python -m pytest $(PYTEST_ARGS)

system-packages:
	@bash scripts/system-packages.sh test

lint: $(VENV)/.test
	$(BIN)/ruff check src tests
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/napari-emdl bench disks
	$(BIN)/napari-emdl bench columns

clean:
	rm -rf $(VENV) build dist *.egg-info demo-out
