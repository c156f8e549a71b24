# make demo: from nothing to a trained, evaluated model and its report.   make test: everything CI checks.
# make gallery: four runs, one healthy and three ill, with every analysis; their reports go to docs/gallery.
# make bench: speed side by side with Pyro, autograd and JAX; a quick one with make bench BENCH=--quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO := runs/demo
GALLERY := healthy collapsed overconfident folded

.PHONY: demo gallery bench test lint types floors tests clean

# One thread: on matrices so small, two wait for one another longer than they compute.
demo: export OMP_NUM_THREADS = 1
demo: $(VENV)/.for-demo
	@$(BIN)/sri-pyro train experiments/demo.toml --out $(DEMO) --resume
	@$(BIN)/sri-pyro evaluate $(DEMO) > $(DEMO)/headline.txt
	@echo; echo "Headline numbers"; cat $(DEMO)/headline.txt
	@echo; echo "Ten sentences from the prior"; $(BIN)/sri-pyro sample $(DEMO) --num 10
	@echo; echo "From one sentence to another"
	@$(BIN)/sri-pyro interpolate $(DEMO) "what do you like to do for fun ?" "i am going to bed now ."
	@echo; echo "The report: $(DEMO)/report.html"

gallery: export OMP_NUM_THREADS = 1
gallery: $(GALLERY:%=gallery-%)

gallery-%: experiments/gallery/%.toml $(VENV)/.for-demo
	$(BIN)/sri-pyro train $< --out runs/gallery/$* --resume
	$(BIN)/sri-pyro evaluate runs/gallery/$*
	$(BIN)/sri-pyro doctor runs/gallery/$*
	$(BIN)/sri-pyro criticise runs/gallery/$*
	$(BIN)/sri-pyro calibrate runs/gallery/$*
	$(BIN)/sri-pyro reference runs/gallery/$*
	$(BIN)/sri-pyro report runs/gallery/$*
	@mkdir -p docs/gallery
	cp runs/gallery/$*/report.html docs/gallery/$*.html

bench: export OMP_NUM_THREADS = 1
bench: $(VENV)/.for-bench
	@$(BIN)/python -m benchmarks $(BENCH)

test: $(VENV)/.for-test
	@$(MAKE) --no-print-directory lint types floors tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

floors:
	$(BIN)/lint-imports

# Doctests and the README's quickstart are among the tests. One thread each: two workers share two cores.
tests:
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

$(VENV)/.for-demo: pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP) torch
	$(PIP) -e ".[corpora]"
	@touch $@

$(VENV)/.for-bench: pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP) torch
	$(PIP) -e .
	@$(PIP) -e ".[bench]" || echo "JAX cannot be had here; its rows will be left out."
	@touch $@

$(VENV)/.for-test: pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP) torch
	$(PIP) -e ".[dev]"
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sri_pyro needs Python 3.11 or later; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
