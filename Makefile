# `make demo` and `make test` need Python 3.11 or later and nothing else: each makes .venv if it is missing.
# PYTHON=/path/to/python3 chooses the interpreter that the environment is made with.

BIN := .venv/bin
INSTALLED := .venv/.installed
# Most tests wait for brokers and processes; those of a file share them. Threads that wait for work in several
# workers must not spin: each would take a core from another's.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest tests --dist loadfile
# The seeded faults, and what compares speeds, run alone.
SPEED := tests/bench/test_pipeline_speed.py tests/bench/test_wire_speed.py
SLOW := $(PYTEST) $(SPEED:%=--ignore %) --ignore tests/faults/test_faults.py -m '(slow or faults) and not gpu'
FAILED := --last-failed --last-failed-no-failures none

.PHONY: help demo test test-all faults soak bench coverage lint format venv clean

help:
	@echo 'make demo      embed the Python language reference, end to end, and ask it two questions'
	@echo 'make test      the tests but for the slow tier'
	@echo 'make test-all  the slow tier: a real corpus, Apache Kafka, the quality oracle, the wheel, faults'
	@echo 'make faults    daemons and brokers killed, frozen and cut off (FAULTS_SEED replays a run)'
	@echo 'make soak      hundreds of such faults on three brokers'
	@echo 'make bench     the figures of the README: encoders, what the pipeline costs, Kafka to Kafka, memory'
	@echo 'make lint      ruff and mypy'
	@echo 'make coverage  the lines that the tests run, processes that they start included'
	@echo 'make format    let ruff format and mend what it can, and make docs/errors.md anew'
	@echo 'make venv      the environment alone'
	@echo 'make clean     remove .venv, build products and caches'

demo: $(INSTALLED)
	$(BIN)/embedstream demo

test: $(INSTALLED)
	$(PYTEST) -n 3 -m 'not slow and not gpu and not faults'

# Real brokers on a busy machine may stall for longer than any test waits: what fails is shown, and once more run
# alone. Not so the seeded faults: a record that is missing or double once is one too many.
test-all: $(INSTALLED)
	$(BIN)/python -m tests.class_archive
	$(SLOW) -n 3 --durations 25 || $(SLOW) $(FAILED)
	$(BIN)/python -m pytest $(SPEED) -m 'slow and not gpu'
	$(BIN)/python -m pytest tests/faults/test_faults.py -m faults

faults: $(INSTALLED)
	$(BIN)/python -m pytest tests/faults -m faults

soak: $(INSTALLED)
	$(BIN)/python -m tests.faults.soak

bench: $(INSTALLED)
	$(BIN)/python -m tests.bench.encoders
	$(BIN)/python -m tests.bench.overhead
	$(BIN)/python -m tests.bench.busy
	$(BIN)/python -m tests.bench.wire
	$(BIN)/python -m tests.bench.produce
	$(BIN)/python -m tests.bench.pipeline
	$(BIN)/python -m tests.bench.backlog

# MARKS='not slow and not gpu and not faults' counts the quick tests alone, in some minutes more than those take.
MARKS ?= not gpu and not faults
coverage: $(INSTALLED)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest tests $(SPEED:%=--ignore %) -n 3 --dist loadfile -m '$(MARKS)'
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --sort=miss --skip-covered --fail-under=90

lint: $(INSTALLED)
	$(BIN)/python -m deploy.grafana.generate --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tests.error_table

venv: $(INSTALLED)

# A name on PATH need not run (version managers leave stubs), and Debian ships Python without venv: both are tried.
$(INSTALLED): pyproject.toml constraints.txt
	@set -e; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	  for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      found=$$python; break; \
	    fi; \
	  done; \
	  if [ -z "$${found:-}" ]; then \
	    echo 'no Python 3.11 or later with venv was found: install it (on Debian: python3-venv), or set PYTHON' >&2; \
	    exit 1; \
	  fi; \
	  echo "making .venv with $$("$$found" --version)"; \
	  "$$found" -m venv .venv; \
	fi
	@echo 'installing into .venv (torch is large, this can take minutes)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	  -c constraints.txt -e '.[consumer,embedded,parquet,qdrant,dev]'
	@# On all cores, which pip would do on one; a template that is no Python in some package does not matter.
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
