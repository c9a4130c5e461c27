# Two commands for a newcomer: `make demo` and `make test`. `make check` is the fast loop.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
PIP = $(PY) -m pip install -qq --disable-pip-version-check --constraint constraints.txt
# The cores are shared with the control loop: numerical libraries stay on one thread.
export OMP_NUM_THREADS = 1
export OPENBLAS_NUM_THREADS = 1
# A notice of pip's about the Python that made the virtual environment is no news to anybody here.
export PIP_DISABLE_PIP_VERSION_CHECK = 1


.PHONY: demo test test-ray check dora-env openpi-env ray-env lint types format train clean help \
  bench bench-chunking bench-tick bench-run-step bench-recording bench-wires bench-clients bench-engines \
  bench-guidance bench-workers bench-jitter bench-distributed bench-cluster bench-endurance fuzz

help:            ## this page
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(VENV)/.demo  ## set up and run the main job: a two-armed OpenArm in simulation, three strategies
	$(VENV)/bin/chunkwise demo --out demo

test: $(VENV)/.dev  ## set up and pass every test
	$(MAKE) --no-print-directory lint types
	$(PY) -m pytest

test-ray: ray-env     ## set up and pass the tests that run a Ray cluster
	.venv-ray/bin/python -m pytest tests/cluster

check: $(VENV)/.dev  ## the fast loop: format, lint, types, import rules, unit and conformance tests
	$(MAKE) --no-print-directory lint types
	$(PY) -m pytest -m "not slow" -n auto

lint: $(VENV)/.dev   ## format and lint, changing nothing
	$(VENV)/bin/ruff format --no-cache --check .
	$(VENV)/bin/ruff check --no-cache .

types: $(VENV)/.dev  ## the type checker, strict, on src
	$(VENV)/bin/mypy

format: $(VENV)/.dev ## format and fix what can be fixed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: bench-tick bench-run-step bench-recording bench-wires bench-engines bench-guidance bench-workers bench-jitter \
  bench-distributed bench-cluster bench-chunking ## every benchmark but the ones that take ten minutes

bench-tick: $(VENV)/.demo     ## what one tick and one turn of the loop cost -> docs/benchmarks/tick.md
	$(PY) benchmarks/tick.py

bench-run-step: $(VENV)/.demo ## what run_step costs over the bare functions -> docs/benchmarks/run_step.md
	$(PY) benchmarks/run_step.py

bench-recording: $(VENV)/.demo ## what recording costs, and what a kill -9 costs -> docs/benchmarks/recording.md
	$(PY) benchmarks/recording.py

bench-wires: $(VENV)/.dev openpi-env ## what each wire costs beside a bare socket -> docs/benchmarks/wires.md
	$(PIP) fastapi opencv-python-headless python-multipart msgpack-numpy
	$(PY) benchmarks/wires.py

bench-clients: $(VENV)/.dev  ## 200 clients, half of them killed again and again -> docs/benchmarks/clients.md (11 min)
	$(PY) benchmarks/clients.py

bench-engines: $(VENV)/.dev  ## one network on every engine -> docs/benchmarks/engines.md
	$(PY) benchmarks/engines.py

bench-guidance: $(VENV)/.dev ## what continuing a plan costs on each engine -> docs/benchmarks/guidance.md
	$(PY) benchmarks/guidance.py

bench-workers: $(VENV)/.demo ## what a request costs in line, in a thread, in a process -> docs/benchmarks/workers.md
	$(PY) benchmarks/workers.py

bench-jitter: $(VENV)/.demo  ## the rate that is kept beside a policy that holds the interpreter -> docs/benchmarks/jitter.md
	$(PY) benchmarks/jitter.py

bench-distributed: $(VENV)/.dev ## what a network elsewhere costs -> docs/benchmarks/distributed.md
	$(PY) benchmarks/distributed.py

bench-cluster: ray-env       ## what a Ray cluster costs, and how many robots it carries -> docs/benchmarks/cluster.md
	.venv-ray/bin/python benchmarks/cluster.py

bench-endurance: $(VENV)/.dev ## a million periods and ten minutes under faults -> docs/benchmarks/endurance.md (12 min)
	$(PY) benchmarks/endurance.py --realtime

fuzz: $(VENV)/.dev           ## a million inputs of garbage for every decoder -> docs/benchmarks/fuzz.md
	$(PIP) --no-deps atheris
	$(PY) benchmarks/fuzz.py

bench-chunking: $(VENV)/.demo ## strategies under inference delay -> docs/benchmarks/chunking.md
	$(PY) benchmarks/chunking.py

train: $(VENV)/.dev           ## train the demo policy again (CPU-minutes)
	$(PY) training/train_demo.py

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "chunkwise needs Python 3.11 or newer; found $$($(PYTHON) --version). Try: make PYTHON=python3.12 demo"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.demo: pyproject.toml constraints.txt | $(PY)
	@echo "setting up $(VENV) (once) ..."
	$(PIP) --editable '.[demo]'
	@touch $@

# The genuine OpenArm nodes need Python 3.12 and want none of this project's development packages beside them.
DORA_PYTHON ?= $(shell for found in python3.13 python3.12 $$(pyenv root 2>/dev/null)/versions/3.1[2-9]*/bin/python; do \
  "$$found" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo "$$found" && break; done)

openpi-env: .venv-openpi/.ready ## environment of the genuine openpi client

.venv-openpi/.ready: inference/requirements-openpi.txt
	@echo "setting up $(@D) (once) ..."
	@$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -qq --no-deps --requirement $<
	@touch $@

ray-env: .venv-ray/.ready    ## environment of a Ray cluster, which wants much beside itself

.venv-ray/.ready: pyproject.toml constraints.txt
	@echo "setting up $(@D) (once) ..."
	@$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -qq --constraint constraints.txt --editable '.[replicas,openarm-sim,onnx]' pytest hypothesis
	@touch $@

dora-env: .venv-dora/.ready .venv-dora-new/.ready ## environments of the OpenArm dataflow, on dora 0.5 and the newest

.venv-dora/.ready: inference/requirements-dora-0.5.txt
.venv-dora-new/.ready: inference/requirements-dora-1.1.txt
.venv-dora/.ready .venv-dora-new/.ready:
	@test -n "$(DORA_PYTHON)" || { echo "the OpenArm nodes need Python 3.12 or newer; none was found. Name one: \
	make DORA_PYTHON=/path/to/python3.12 dora-env"; exit 1; }
	@echo "setting up $(@D) (once) ..."
	@"$(DORA_PYTHON)" -m venv $(@D)
	$(@D)/bin/python -m pip install -qq --no-deps --requirement $<
	$(@D)/bin/python -m pip install -qq --no-deps --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt inference/requirements-lerobot.txt | $(PY)
	@echo "setting up $(VENV) for development (once) ..."
	$(PIP) --editable '.[dev]'
	$(PY) -m pip install -qq --no-deps --requirement inference/requirements-lerobot.txt
	@touch $@ $(VENV)/.demo

clean:           ## remove what was made here
	rm -rf $(VENV) .venv-dora .venv-dora-new .venv-openpi .venv-ray demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
