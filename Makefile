# `make train` and `make test` set everything up on a fresh clone: Python 3.11 or later and the package registry suffice.
PYTHON ?= python3
VENV ?= .venv
# Where `make train` leaves its run; by default a new folder under runs/.
WORKDIR ?=
# JAX's CUDA plugin is installed where an NVIDIA driver is; CUDA=cuda13 or CUDA=cuda asks for it, CUDA=none does without.
DRIVER = $(wildcard /dev/nvidiactl /proc/driver/nvidia/version /usr/lib/wsl/lib/libcuda.so.1)
CUDA ?= $(if $(DRIVER),cuda13,none)
COMMA := ,
EXTRAS = $(if $(filter-out none,$(CUDA)),$(CUDA)$(COMMA))torch,dev
PY = $(VENV)/bin/python
# Two processes side by side, each with half of the cores; the files that take longest begin first.
PYTEST = $(PY) -m pytest --numprocesses 2 --dist loadfile

.PHONY: help setup train test test-all bench lint clean

help:
	@echo "make train     train on the embedded digits (1 to 2 minutes on two cores)"
	@echo "make test      every kind of check at least once (about 14 minutes on two cores)"
	@echo "make test-all  every test: full width, all seeds, all faults, all ports"
	@echo "make bench     measure speed beside PyTorch (three quarters of an hour; the machine must be quiet)"
	@echo "make lint      formatter, linter, type checker, and who may import whom"
	@echo "make setup     make $(VENV) and install everything into it (CUDA=$(CUDA))"

setup: $(VENV)/.ready-$(CUDA)

$(VENV)/.ready-$(CUDA): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is not Python 3.11 or later: make PYTHON=python3.12 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

train: setup
	$(PY) -m jaxalex.train --recipe quickstart $(if $(WORKDIR),--workdir $(WORKDIR))

test: setup
	$(PYTEST)

# Few and long ones, the last part is shared out test by test.
test-all: setup
	$(PYTEST)
	$(PYTEST) -m "slow and not users_programs"
	$(PYTEST) --dist load --maxschedchunk 1 -m "slow and users_programs"

# What was measured replaces the files in RESULTS and the tables of the pages made from them.
RESULTS = benchmarks/results

bench: setup
	$(PY) -m benchmarks --json $(RESULTS)/throughput_cpu.json --html $(RESULTS)/throughput_cpu.html \
	  --png docs/performance-growth-cpu.png
	$(PY) -m benchmarks.end_to_end --num-epochs 2 --limit-train 256 512 1024 --limit-eval 200 \
	  --json $(RESULTS)/end_to_end_cpu.json --png docs/performance-epochs-cpu.png
	$(PY) -m benchmarks.start_up --json $(RESULTS)/start_up_cpu.json
	$(MAKE) --no-print-directory bench-tables

.PHONY: bench-tables
bench-tables:
	$(PY) -m benchmarks.readme_tables $(wildcard $(RESULTS)/throughput*.json) README.md
	$(PY) -m benchmarks.readme_tables $(wildcard $(foreach k,throughput end_to_end start_up,$(RESULTS)/$(k)*.json)) docs/performance.md

lint: setup
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
