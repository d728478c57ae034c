# What a newcomer types. `make demo` and `make test` do all the set-up themselves.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
# The first interpreter that runs and is 3.11, 3.12 or 3.13.
FIND_PYTHON = for p in python3 python3.13 python3.12 python3.11; do \
	  if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then echo $$p; break; fi; done

.PHONY: help setup demo test test-fast test-world chaos chaos-full lint airflow bench lock audit-lock clean
.DEFAULT_GOAL := help

help:                ## this list
	@grep -E '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

# A venv is ready when its stamp is newer than the lock. Bytecode is compiled at installation: without it every start of
# Airflow or Great Expectations would spend some ten seconds on compiling.
$(VENV)/.ready: requirements.txt requirements-uv.txt pyproject.toml
	@p=$$($(FIND_PYTHON)); test -n "$$p" || { echo "Makegood needs Python 3.11, 3.12 or 3.13 on the PATH"; exit 1; }; \
	 test -x $(PYTHON) || $$p -m venv $(VENV)
	@echo "installing from the lock ..."
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --compile-bytecode --require-hashes -r requirements.txt
	@$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation -e .
	@touch $@

setup: $(VENV)/.ready ## .venv with everything in the lock

demo: setup          ## the main job on 30,000 real bills: verify, hold the wrong month, charge the right one
	@MAKEGOOD_BIN=$(VENV)/bin/makegood bash tools/demo.sh

# Two processes: the tests that run a whole Airflow wait for it most of the time.
IN_TWO := -n 2 --no-loadscope-reorder

test: setup lint     ## every test that needs Python alone
	@$(PYTHON) -m pytest $(IN_TWO)

test-fast: setup     ## without the slow ones
	@$(PYTHON) -m pytest $(IN_TWO) -m "not slow and not world"

test-world: setup    ## what takes more: servers restarted and restored, long faults
	@$(PYTHON) -m pytest -m world

# Faults in turn, each at a step and point that the seed draws; what was tried is kept, and a second call goes on.
chaos: setup         ## about an hour of seeded faults at the points of the money path; says what broke and how to replay it
	@$(VENV)/bin/makegood chaos --seeds 400 --record data/chaos.jsonl --report data/chaos.json

chaos-full: setup    ## every cell of step, point and fault that applies; hours, and goes on where it stopped
	@$(VENV)/bin/makegood chaos --all --record data/chaos-full.jsonl --report data/chaos-full.json

lint: setup          ## style and import rules
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

airflow: setup       ## the whole of Airflow on the embedded PostgreSQL, on this machine's loopback address; Ctrl-C stops it
	@$(PYTHON) -m dags.server

bench: setup         ## measured comparisons, as ratios within one run
	@$(PYTHON) -m bench

lock: setup          ## resolve pyproject.toml anew into the hashed lock
	@$(VENV)/bin/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-header -o requirements.txt

audit-lock: setup    ## ask an advisory service about every package of the lock; says SKIPPED where none can be asked
	@$(PYTHON) tools/audit_lock.py

clean:               ## remove everything that was generated, keep the sample
	@git clean -fdXq -e '!.venv'
