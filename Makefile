# make demo | test | lint | drill | drill-kernel | bench | bench-quick | clean. Needs Python 3.11 or newer with venv, and nothing else.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --only-binary :all: --constraint constraints.txt
INPUTS := constraints.txt setup.cfg setup.py pyproject.toml

.PHONY: demo test lint drill drill-kernel bench bench-quick clean

demo: $(VENV)/.demo
	@$(BIN)/wren-standalone demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 4 --dist worksteal -q

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/lint-imports

# real machines from power on to power off; needs root, mmdebstrap, systemd-container, nftables and iproute2
drill: $(VENV)/.test
	@$(BIN)/python tests/boot/drill.py

# the same with a kernel of its own, in qemu: a quarter of an hour, more on a busy machine; needs root, mmdebstrap, qemu-system-x86 and iproute2
drill-kernel: $(VENV)/.test
	@$(BIN)/python tests/boot/kernel.py

# each system in its own environment under benchmarks/.venvs; writes docs/benchmarks.md and benchmarks/results/latest.json
bench:
	@$(PYTHON) -m benchmarks

bench-quick:
	@$(PYTHON) -m benchmarks --quick

clean:
	rm -rf $(VENV) benchmarks/.venvs build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# one virtual environment; each target adds what it needs and leaves a stamp
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv was not found. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made $(INPUTS)
	@echo "installing what the demo needs (pinned by constraints.txt)"
	@$(PIP) setuptools && $(PIP) --no-build-isolation --no-binary wren-worker --editable '.[sandbox]'
	@touch $@

$(VENV)/.test: $(VENV)/.made $(INPUTS)
	@echo "installing what the tests need (pinned by constraints.txt)"
	@$(PIP) setuptools && $(PIP) --no-build-isolation --no-binary wren-worker --editable '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.made $(INPUTS)
	@echo "installing what the linters need (pinned by constraints.txt)"
	@$(PIP) setuptools && $(PIP) --no-build-isolation --no-binary wren-worker --editable '.[lint]'
	@touch $@
