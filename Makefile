# CONFIG names the configuration, ARGS adds words: make train CONFIG=configs/x.yaml ARGS="run.name=a"
CONFIG ?= configs/tiny.yaml
ARGS ?=
# The interpreter that .venv is made with.
PYTHON ?= python3
# cpu or cuda: how llama-cpp-python is compiled; unset: cuda where nvcc and a GPU are both here.
LLAMA ?=

BIN := .venv/bin
STAMP := .venv/.installed
VLMPIPE := $(BIN)/vlmpipe

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-vllm check clean bench-curriculum bench-eval bench-merge bench-resize bench-train bench-train-gpu \
	bench-vision-cache llama-tools mermaid \
	stage-check stage-setup train validate merge convert deploy

help: ## list the targets
	@grep -E '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 40

setup: $(STAMP) ## create .venv and install from constraints.txt (compiles llama-cpp-python, about 5 minutes)

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON="$(PYTHON)" LLAMA="$(LLAMA)" bash scripts/setup.sh
	@touch $@

demo: setup ## install, run all stages of CONFIG, say where the report and the service are
	$(VLMPIPE) run-all -c $(CONFIG) $(ARGS)
	@echo "(vlmpipe is in .venv: source .venv/bin/activate)"

test: setup ## all tests
	$(BIN)/pytest $(ARGS)

test-fast: setup ## tests that take a few seconds at most
	$(BIN)/pytest -m "not slow" $(ARGS)

bench-curriculum: setup ## what curriculum and loss mask are worth: 9 trainings, about 40 minutes on two cores
	$(BIN)/python benchmarks/curriculum.py $(ARGS)

llama-tools: setup ## llama.cpp's programs, compiled once into the shared cache (10 minutes on two cores)
	$(BIN)/python scripts/build_llama_tools.py

mermaid: setup ## Mermaid's own parser, which tells whether charts are valid: needs Node 20 and npm
	$(BIN)/python scripts/install_mermaid.py

bench-eval: setup ## what evaluation costs: TEDS of 1,000 pairs of tables, about 15 minutes on two cores
	$(BIN)/python benchmarks/evaluation.py $(ARGS)

test-vllm: setup ## the OpenAI engine against a real vLLM on the CPU, in an environment of its own (3.5 GB, built once)
	$(BIN)/python scripts/vllm_environment.py
	$(BIN)/pytest tests/test_engine_vllm.py $(ARGS)

bench-merge: setup ## the streamed merge against PEFT's, 8 GB: about 10 minutes, 35 GB of disk, 16 GB of memory
	$(BIN)/python benchmarks/merge.py $(ARGS)

bench-resize: setup ## what foreign resizes cost and training for them is worth: 6 trainings, about half an hour
	$(BIN)/python benchmarks/resize_kernels.py $(ARGS)

bench-train: setup ## training against plain TRL: samples a second, memory, losses; about 35 minutes on two cores
	$(BIN)/python benchmarks/train.py $(ARGS)

bench-train-gpu: setup ## the same at the 3B's and 7B's real shapes; says so where there is no GPU
	$(BIN)/python benchmarks/train_gpu.py $(ARGS)

bench-vision-cache: setup ## how fast the vision cache gives back what it keeps
	$(BIN)/python benchmarks/vision_cache.py $(ARGS)

check: setup ## lint, format, layers, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

clean: ## remove caches and build products; outputs/ and .venv stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

stage-check: setup ## stage 0: the machine against CONFIG
	$(VLMPIPE) check -c $(CONFIG) $(ARGS)

stage-setup: setup ## stage 1: base model, data, llama.cpp sources
	$(VLMPIPE) setup -c $(CONFIG) $(ARGS)

train validate merge convert deploy: setup ## stages 2 to 6, each by its name
	$(VLMPIPE) $@ -c $(CONFIG) $(ARGS)
