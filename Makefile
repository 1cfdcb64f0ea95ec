# Every target does its own set-up: the first one to run makes .venv, later ones reuse it until pyproject.toml changes.
#
#   make demo    run the main job, examples/flights.py
#   make test    everything that CI checks: make check, then the fast tests with coverage, then the slow ones
#   make check   style, types and import layers only (make -k check: all three, whatever fails)
#   make fast    the fast tests only
#   make slow    those marked integration, guarantee or slow
#   make soak    the slow tests with all their rounds and fresh seeds, three times, under load (hours; ROUNDS=1: once)
#   make fuzz    fresh seeds for the simulation and for the properties, for MINUTES=30
#   make bench   measure, and write docs/benchmarks.md
#   make bench-kafka   measure on a real broker, and write docs/benchmarks-kafka.md (needs Java and Maven; an hour)
#   make bench-nats    measure on a real NATS server, and write docs/benchmarks-nats.md (a quarter of an hour)
#   make bench-mqtt    measure on a real Mosquitto, and write docs/benchmarks-mqtt.md (a quarter of an hour)
#   make mutants change the code in small ways, and show what no test notices (half an hour; ONLY=streams/core/state.py: one file)
#   make format  rewrite the sources in the project's style
#   make clean   remove what these targets made
#
# Another interpreter: make PYTHON=python3.13 test

PYTHON ?= python3
VENV   := .venv
STAMP  := $(VENV)/.installed
# -P keeps the current folder off the path: `connectors` must not be importable beside `streams.connectors`.
RUN    := $(VENV)/bin/python -P -m
SLOW   := integration or guarantee or slow
CORES  := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Tests that start servers mostly wait for them: one more than there are cores keeps the machine busy.
SHARED := --dist load --maxschedchunk 1
ROUNDS ?= 3
MINUTES ?= 30
# How long each stage took, for the last lines of `make test` and of CI.
TIMES  := .stage-times
timed   = @started=$$(date +%s); $(MAKE) --no-print-directory $(1) && \
  printf '%-12s %5d s\n' '$(1)' $$(($$(date +%s) - started)) >> $(TIMES)

SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help setup demo test check style types layers fast slow soak fuzz bench bench-kafka bench-nats bench-mqtt mutants format clean
# A PYTHONPATH of the caller's would shadow what is tested here.
unexport PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo "error: $(PYTHON) is not there: install Python 3.11 or later, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$('$(PYTHON)' -V 2>&1), Python 3.11 or later is needed: make PYTHON=python3.12" >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) can't make virtual environments: install its venv module (Debian: apt-get install python3-venv)" \
	    "or name another Python: make PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up $(VENV) with $$('$(PYTHON)' -V)"
	@'$(PYTHON)' -m venv --clear $(VENV)
	@$(RUN) pip install --quiet --editable '.[all,dev]' || { \
	  echo "error: the packages that pyproject.toml names could not be installed (see above); then run make again" >&2; exit 1; }
	@touch $@

demo: $(STAMP)
	$(VENV)/bin/python examples/flights.py

test:
	@rm -f $(TIMES)
	$(call timed,setup)
	$(call timed,check)
	$(call timed,fast)
	$(call timed,slow)
	@cat $(TIMES)

check: style types layers

style: $(STAMP)
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(STAMP)
	$(RUN) mypy

layers: $(STAMP)
	$(VENV)/bin/lint-imports

# What a killed process leaves of its coverage may be torn: no failure of combine, the report tells what is covered.
fast: $(STAMP)
	$(RUN) coverage erase
	$(RUN) coverage run -m pytest -n $(CORES) $(SHARED) -m 'not ($(SLOW))'
	-@$(RUN) coverage combine --quiet
	$(RUN) coverage report

# Not under coverage: what is killed here dies at the moments of the real program, not at those of a traced one.
slow: $(STAMP)
	$(RUN) pytest -n $$(($(CORES) + 1)) $(SHARED) -m '$(SLOW)'

# What fails once in any of the rounds fails the soak: a test that needs a second try has a cause.
soak: $(STAMP)
	$(VENV)/bin/python tests/soak.py --rounds $(ROUNDS) -- -n $$(($(CORES) + 1)) $(SHARED) -m '$(SLOW)'

fuzz: $(STAMP)
	$(RUN) streams.testing.simulate --minutes $(MINUTES)
	HYPOTHESIS_PROFILE=fuzz $(RUN) pytest -n $(CORES) $(SHARED) -m property

bench: $(STAMP)
	$(VENV)/bin/python tests/benchmarks/run.py

bench-kafka: $(STAMP)
	$(VENV)/bin/python -m tests.benchmarks.kafka.run

bench-nats: $(STAMP)
	$(VENV)/bin/python -m tests.benchmarks.nats.run

bench-mqtt: $(STAMP)
	$(VENV)/bin/python -m tests.benchmarks.mqtt.run

# Not in CI: it takes long, and what it shows needs a reader. Nice, so that it can run beside other work.
mutants: $(STAMP)
	nice -n 10 $(VENV)/bin/python -m tests.mutation.run $(ONLY)

format: $(STAMP)
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

clean:
	rm -rf $(VENV) .kafka .mutants build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* $(TIMES)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
