# Set-up and the everyday commands. `make sweep` and `make test` work on a fresh machine.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup sweep test test-tools slurm-up slurm-down screenshots slow nightly check format tables report ui bench clean

help:
	@echo "make setup   create or refresh .venv (other targets do so if needed)"
	@echo "make sweep   pre-train, fine-tune and evaluate at four masking ratios; print Table 4"
	@echo "make test    the tests          make slow   proofs that take about 20 minutes"
	@echo "make nightly those that take longest, and that CI has no time for"
	@echo "make check   lint and types     make format lay the code out"
	@echo "make tables  reports/out/       make report reports/out/index.html, all on one page"
	@echo "             FROM=DIR: from portable records instead of this home"
	@echo "make ui      MLflow on 127.0.0.1"
	@echo "make test-tools   Chromium, LaTeX and axe, without which some tests are skipped"
	@echo "make slurm-up     a real Slurm on this machine for its tests; make slurm-down undoes it"
	@echo "make screenshots  the pages shown in docs/images/, taken by their tests"
	@echo "make bench   measure speeds     make clean  remove everything that was made"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$$($(PYTHON) --version) is too old: Python 3.11 or newer, e.g. make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "setting up .venv (two to five minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

sweep: setup
	$(BIN)/python sweeps/run.py sweeps/masking_ratio.yaml

# Pure tests in a process for each core, then one by one those that need Ray, Slurm, servers, Chromium or clocks.
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "pure and not slow"
	$(BIN)/python -m pytest -m "not pure and not slow"

test-tools:
	tests/tools.sh

slurm-up:
	slurm/one_machine/up.sh

slurm-down:
	slurm/one_machine/down.sh

screenshots: setup test-tools
	SMAUG_SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/browser -m browser

slow: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "pure and slow and not nightly"
	$(BIN)/python -m pytest -m "not pure and slow and not nightly"

nightly: setup
	$(BIN)/python -m pytest -m nightly

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: setup
	$(BIN)/smaug report tables $(if $(FROM),--from $(FROM))

report: setup
	$(BIN)/smaug report page $(if $(FROM),--from $(FROM))

ui: setup
	$(BIN)/smaug ui

bench: setup
	$(BIN)/python -m tests.benchmarks.step
	$(BIN)/python -m tests.benchmarks.orchestration
	$(BIN)/python -m tests.benchmarks.reports
	$(BIN)/python -m tests.benchmarks.media
	$(BIN)/python -m tests.benchmarks.loader

clean:
	rm -rf .venv .smaug reports/out .pytest_cache .mypy_cache .ruff_cache .hypothesis smaug.egg-info tests/browser/node_modules
