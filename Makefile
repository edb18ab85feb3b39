# Every verb works from a bare clone: it makes .venv first, and again only when the dependencies change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRA ?=
OF_DATA := benchmarks/mosaic_norm.py benchmarks/streaming.py
# pruning.py asks which space to search.
BENCHES := $(filter-out benchmarks/pruning.py $(if $(RAYKD_DATA),,$(OF_DATA)),$(sort $(wildcard benchmarks/*.py)))

.DEFAULT_GOAL := help
.PHONY: help venv install demo test endurance lint format types docs bench gpu-kit gpu-report schemas constraints clean

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("raykd needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

venv install: $(STAMP)  ## create .venv with raykd, Ray and the developer's tools

demo: $(STAMP)  ## train a student of handwritten digits without their images; a second call resumes
	$(BIN)/raykd train dafl_digits --cluster local

test: $(STAMP)  ## run the gate's tests, four parts at once; narrow them with EXTRA='-m "not slow"'
	$(BIN)/python -m tests.side_by_side $(EXTRA)

endurance: $(STAMP)  ## run the proofs that take their time: many kills, outages, several machines, every damage to every file
	$(BIN)/python -m pytest -m endurance $(EXTRA)

lint: $(STAMP)  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## check types
	$(BIN)/mypy

docs: $(STAMP)  ## build the documentation site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs --quiet build --strict
	@echo 'build/site/index.html; its search wants a server: $(BIN)/python -m http.server --directory build/site'

bench: $(STAMP)  ## run the scripts in benchmarks/; those of data sets only with RAYKD_DATA
	@set -e; for script in $(BENCHES); do echo "== $$script"; $(BIN)/python $$script; done
	@$(if $(RAYKD_DATA),,echo "left out without RAYKD_DATA: $(OF_DATA)")

gpu-kit: $(STAMP)  ## build build/gpu-kit, all that a machine with a GPU needs to be measured; wants RAYKD_DATA
	$(BIN)/python benchmarks/gpu/kit.py

gpu-report: $(STAMP)  ## write docs/results/gpu.md from the folder RESULTS, which the kit's run.py wrote
	$(BIN)/python benchmarks/gpu/report.py $(RESULTS) --out docs/results/gpu.md

schemas: $(STAMP)  ## write the schema of each kind of YAML file, which editors read, beside the packaged ones
	$(BIN)/raykd show recipe dafl_digits --schema | $(BIN)/python -m json.tool --indent 1 > raykd/recipes/schema.json
	$(BIN)/raykd show table digits --schema | $(BIN)/python -m json.tool --indent 1 > raykd/tables/schema.json
	$(BIN)/raykd show space dafl_digits --schema | $(BIN)/python -m json.tool --indent 1 > search_spaces/schema.json
	$(BIN)/raykd show cluster local --schema | $(BIN)/python -m json.tool --indent 1 > clusters/schema.json

constraints:  ## resolve the newest allowed versions into constraints.txt
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' | grep -v '^pip==' > constraints.txt
	@touch $(STAMP)

clean:  ## back to a bare clone; runs/ is kept
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
