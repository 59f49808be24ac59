# A fresh clone needs Python (with venv and pip) and make. Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS := .venv-docs/bin
DOCS_INSTALLED := .venv-docs/.installed

# Two PyTorch threads beside other load make small machines crawl; results are the same with one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-fast test-lowest test-newest wheel-test release audit lint types docs serve table clean

demo: $(INSTALLED)  ## HPO data, in-batch against exact and dynamic softmax negatives: table, models, figures in runs/demo
	[ -f data/hpo/corpus.jsonl ] || $(RUN)/hardwood data hpo data/hpo
	$(RUN)/hardwood compare data/hpo --negatives in-batch,exact,dynamic --seeds 1 --steps 400 --evaluate-every 100 --output runs/demo

test: $(INSTALLED)  ## all tests, slow ones too
	$(RUN)/pytest -n 2

test-fast: $(INSTALLED)
	$(RUN)/pytest -n 2 -m "not slow"

# Each of these three builds wheel and sdist and tests the installed wheel in an empty environment, outside the repository.
ELSEWHERE ?= /tmp/hardwood-elsewhere
wheel-test: $(INSTALLED)  ## the versions of constraints.txt
	$(RUN)/python tools/check_install.py $(ELSEWHERE)/pinned --constraints constraints.txt --python $(PYTHON)

test-lowest: $(INSTALLED)  ## the lowest versions that pyproject.toml allows
	$(RUN)/python tools/check_install.py $(ELSEWHERE)/lowest --constraints constraints-lowest.txt --python $(PYTHON)

test-newest: $(INSTALLED)  ## the newest versions that there are today, but for torch
	$(RUN)/python tools/check_install.py $(ELSEWHERE)/newest --pin torch --python $(PYTHON)

release: $(INSTALLED)  ## wheel and sdist in dist/, checked and tested, ready for `twine upload dist/*`
	$(RUN)/python tools/check_release.py
	rm -rf dist
	$(RUN)/python -m build --no-isolation
	$(RUN)/python -m pip install --quiet -c constraints.txt twine
	$(RUN)/twine check --strict dist/*
	$(MAKE) wheel-test

audit: $(INSTALLED)  ## known vulnerabilities of the versions in constraints.txt; fails where PyPI's data can't be had
	$(RUN)/python -m pip install --quiet -c constraints.txt pip-audit
	$(RUN)/pip-audit --strict --disable-pip --no-deps -r constraints.txt

lint: $(INSTALLED)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(INSTALLED)
	$(RUN)/mypy

docs: $(INSTALLED) $(DOCS_INSTALLED)  ## checks the documentation, and builds its site into site/ with warnings as errors
	$(RUN)/python tools/check_docs.py
	$(DOCS)/python tools/build_site.py

serve: $(DOCS_INSTALLED)  ## the site on http://localhost:8000, built anew whenever a page changes
	$(DOCS)/zensical serve

table: $(INSTALLED)  ## the comparison table of docs/results/comparison.md (about half an hour on two cores)
	[ -f data/hpo/corpus.jsonl ] || $(RUN)/hardwood data hpo data/hpo
	$(RUN)/hardwood compare data/hpo --seeds 3 --steps 800 --unasked-prior 1 --unasked-push 1 --output runs/comparison
	$(RUN)/python tools/update_docs.py runs/comparison

$(INSTALLED): pyproject.toml constraints.txt
	[ -x $(RUN)/python ] || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet -c constraints.txt -e ".[dev,demo]"
	touch $@

# The site's tools have an environment of their own: they read the package and need none of what it requires. These are the
# extra `docs`, with every version pinned.
$(DOCS_INSTALLED): constraints-docs.txt
	[ -x $(DOCS)/python ] || $(PYTHON) -m venv .venv-docs
	$(DOCS)/python -m pip install --quiet -r constraints-docs.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-docs site .cache runs data .pytest_cache .mypy_cache .ruff_cache
