# make demo   install into .venv and open napari on the sample datacube (without a display: write demo-out/)
# make test   install the test extra and what a bare Debian lacks, run all tests
# make test-random   the tests with many random draws
# make coverage  lines and branches that the tests of the core reach
# make lint   ruff, mypy and the walls between the rooms
# make wheel  build, install into an empty environment, run the demo from it
# make bench  accuracy and speed tables against peers
# make docs   the site in docs/_build/html, every tutorial executed; warnings are errors

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := $(VENV)/$(SCRIPTS)
REFEREES ?= .venv-referees
# The newest torch brings gigabytes of CUDA; tests and training on a CPU need this release only.
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
# Processes that share the tests; each has its own screen and its own files.
PYTEST_WORKERS ?= 2
SPHINX_ARGS ?=

.PHONY: help demo environments test test-suite test-referees test-random coverage lint bench docs wheel system-packages clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "napari-emdl needs Python >= 3.11 on PATH (python3-venv on Debian)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	@touch $@

$(VENV)/.test: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' numpy || \
		echo "torch is not to be had here: training tests will be skipped"
	if $(BIN)/python -c 'import torch' 2>/dev/null; then extras='all,test,lint,train,cluster,docs'; else extras='all,test,lint,cluster,docs'; fi; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$$extras]"
	@touch $@

# py4DSTEM and abTEM, with the older numpy they need
$(REFEREES)/.test: pyproject.toml
	test -e $(REFEREES)/pyvenv.cfg || $(PYTHON) -m venv $(REFEREES)
	$(REFEREES)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' 'numpy<2' || \
		echo "torch is not to be had here: the simulators are not held against abTEM"
	$(REFEREES)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check -e '.[referee,train]' || \
		$(REFEREES)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check -e '.[referee]'
	@touch $@

demo: $(VENV)/.app
	@bash scripts/system-packages.sh demo
	$(BIN)/napari-emdl demo --out demo-out

# both environments at once: most of their time goes into waiting
environments:
	@$(MAKE) --no-print-directory -j2 $(VENV)/.test $(REFEREES)/.test

# the referees run beside the suite: window tests leave a core idle at times
test:
	@$(MAKE) --no-print-directory -j3 $(VENV)/.test $(REFEREES)/.test system-packages
	@$(MAKE) --no-print-directory -j2 test-suite test-referees

# one thread each: processes that wait for each other's threads take three times as long
test-suite test-random: export OMP_NUM_THREADS ?= 1
test-suite: $(VENV)/.test
	$(BIN)/python -m pytest -m "not referee" -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

test-referees: $(REFEREES)/.test
	$(REFEREES)/$(SCRIPTS)/python -m pytest -m referee tests/diffraction tests/io tests/training $(PYTEST_ARGS)

# many random draws instead of the fixed ones; what it finds becomes an example in the tests
test-random: $(VENV)/.test
	HYPOTHESIS_PROFILE=random $(BIN)/python -m pytest -m "not referee" -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

coverage: $(VENV)/.test system-packages
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pytest-cov
	$(BIN)/python -m pytest -m "not referee" --ignore tests/gui --cov napari_emdl --cov-branch --cov-report term $(PYTEST_ARGS)

system-packages:
	@bash scripts/system-packages.sh test

lint: $(VENV)/.test
	$(BIN)/ruff check src tests docs examples
	$(BIN)/ruff format --check src tests docs examples
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test $(REFEREES)/.test
	$(REFEREES)/$(SCRIPTS)/napari-emdl bench disks
	$(BIN)/napari-emdl bench columns

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -b html -W --keep-going $(SPHINX_ARGS) docs docs/_build/html

$(VENV)/.docs: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

# wheel and sdist, installed into an empty environment; the demo runs from there
wheel:
	@test -n "$(PYTHON)" || { echo "napari-emdl needs Python >= 3.11 on PATH (python3-venv on Debian)" >&2; exit 1; }
	rm -rf dist build .venv-wheel && $(PYTHON) -m venv .venv-wheel
	.venv-wheel/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check build
	.venv-wheel/$(SCRIPTS)/python -m build --outdir dist .
	rm -rf .venv-wheel && $(PYTHON) -m venv .venv-wheel
	.venv-wheel/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check "$$(ls dist/*.whl)[all]"
	cd dist && ../.venv-wheel/$(SCRIPTS)/napari-emdl demo --headless --out ../demo-out && ls -l *.whl *.tar.gz

clean:
	rm -rf $(VENV) $(REFEREES) .venv-wheel build dist *.egg-info demo-out docs/_build docs/tutorials docs/reference/generated
