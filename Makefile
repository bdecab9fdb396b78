# Every target makes .venv and installs into it when that is missing or out of date.
#
#   PROFILE=smoke|laptop|paper   size of the runs in the book (make book)
#   TORCH=cpu|gpu                which build of torch: gpu takes the one PyPI offers, with CUDA on Linux
#   COURSE=folder                where assignments go; make clean empties the default, _build/assignments
#   PYTHON=...                   interpreter for .venv; 3.11 gets the pinned versions, another one the newest that fit
#   JOBS=2                       test processes at once, each on one thread; a file's tests stay in one
#   PORT=8000                    where make serve shows the book
#   TAG=v0.2.0                   what notebooks and links are pinned to (make release); main after a release

SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help
.PHONY: help book serve pdf browse test quick bench colab demo lab assignments notebooks release clean

PROFILE ?= laptop
COURSE ?= _build/assignments
TORCH ?= cpu
JOBS ?= 2
PORT ?= 8000
# Two processes that both use all cores get in each other's way: one thread each.
PARALLEL := OMP_NUM_THREADS=1 MICROLAB_PROFILE=smoke
SPREAD := -n $(JOBS) --dist loadfile
# As tests/conftest.py sorts the files: slow ones first.
SLOW_FIRST := --no-loadscope-reorder
# Threads that sleep while they wait (see microlab/__init__.py): a kernel may load torch before microlab.
export OMP_WAIT_POLICY ?= passive
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready-$(TORCH)
COLAB := .venv-colab

# Real micrographs that lie beside the repository spare their download.
ifneq ($(wildcard ../shared/data),)
export MICROLAB_DATA ?= $(abspath ../shared/data)
endif

help:  ## say what can be made (the default)
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## */  make \1\t/' | expand -t 18
	@echo "  Variables: PROFILE=$(PROFILE) TORCH=$(TORCH) PYTHON=$(PYTHON)"

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python found: install Python 3.11 or say make PYTHON=/path/to/python"; exit 1; }
	@echo "Installing into .venv, once. This takes some minutes."
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
	    pins="-c constraints.txt"; torch=$$(grep '^torch==' constraints.txt); \
	else pins=""; torch=torch; fi; set -e; \
	if [ "$(TORCH)" = cpu ]; then \
	    $(BIN)/pip install -q --no-deps --retries 0 --timeout 15 --index-url $(TORCH_INDEX) $$torch \
	    || $(BIN)/pip install -q --no-deps $$torch; \
	else $(BIN)/pip install -q --no-deps --force-reinstall $$torch; fi; \
	$(BIN)/pip install -q $$pins -e '.[test,lab,teach]'
	@rm -f .venv/ready-*
	@touch $@
	@echo "Installed: $$($(BIN)/python --version), torch $$($(BIN)/python -c 'import torch; print(torch.__version__)'), in .venv"

book: $(READY)  ## run every chapter and build the book; PROFILE=smoke is quick
	@rm -rf _build/html _build/.doctrees _build/jupyter_execute
	MICROLAB_PROFILE=$(PROFILE) $(BIN)/jupyter-book build . --config _config.yml --toc book/_toc.yml -W -n --keep-going
	$(BIN)/python tools/check_site.py _build/html
	@echo "The book: _build/html/index.html. What each chapter cost: _build/costs/$(PROFILE).json"

serve:  ## show the built book at http://localhost:8000, which the page that segments needs
	@test -f _build/html/index.html || { echo "No book here: make book PROFILE=smoke"; exit 1; }
	@echo "http://localhost:$(PORT)/  (Ctrl-C ends it)"
	@$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

pdf: $(READY)  ## print the book that make book built as one PDF, _build/microlab.pdf; needs Chromium
	$(BIN)/python tools/make_pdf.py _build/html _build/microlab.pdf

browse: $(READY)  ## read the built book in a headless Chromium: errors, widths, controls, accessibility
	$(BIN)/python tools/browse_site.py _build/html --shots _build/shots
	@echo "Pictures of every page: _build/shots"

test: $(READY) $(COLAB)/ready  ## check style, spelling and notebooks, then run all tests and all chapters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell README.md CONTRIBUTING.md CHANGELOG.md book tutorials microlab studies tests tools benchmarks
	$(BIN)/python tools/export_notebooks.py --check
	$(BIN)/python tools/update_readme.py --check
	@mkdir -p _build
	$(PARALLEL) $(BIN)/python -m pytest $(SPREAD) $(SLOW_FIRST) --durations 40 tests 2>&1 | tee _build/pytest.log
	@$(MAKE) --no-print-directory colab
	@echo "All passed. The logs: _build/pytest.log and _build/colab.log"

quick: $(READY)  ## the same without slow tests and chapters, in at most 4 minutes: while you work
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PARALLEL) $(BIN)/python -m pytest $(SPREAD) $(SLOW_FIRST) -m "not slow" tests

PEERS := .venv-peers
$(PEERS)/ready: benchmarks/phasefield.py
	@test -x $(PEERS)/bin/pip || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -q fipy py-pde pyphasefield symengine meshio h5py tinydb
	@touch $@

bench: $(READY) $(PEERS)/ready  ## measure every goal of speed, idle, beside a busy machine and beside peers
	$(BIN)/python benchmarks/phasefield.py --peers $(PEERS)/bin/python
	$(BIN)/python benchmarks/run.py

$(COLAB)/ready: $(READY) pyproject.toml tools/colab-constraints.txt tools/colab_env.py
	TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python tools/colab_env.py $(COLAB)
	@touch $@

colab: $(COLAB)/ready  ## run every notebook with the versions that Colab ships, in .venv-colab
	@mkdir -p _build
	$(PARALLEL) $(COLAB)/bin/python -m pytest $(SPREAD) tutorials 2>&1 | tee _build/colab.log

demo: $(READY)  ## segment a micrograph without any hand-drawn label and report its grains
	$(BIN)/microlab demo

lab: $(READY)  ## open the chapters in JupyterLab, the start page in front
	@echo "The chapters: tutorials/*.ipynb. To keep your answers, work in copies of them. Stop JupyterLab with Ctrl-C."
	JUPYTER_CONFIG_PATH=$(CURDIR)/tools/lab $(BIN)/jupyter lab tutorials --LabApp.default_url=/lab/tree/00_start.ipynb

assignments: $(READY)  ## make the assignments for students; COURSE=folder keeps a course outside of _build
	$(BIN)/python tools/make_assignments.py "$(COURSE)"

notebooks: $(READY)  ## after editing a chapter: write its notebook and the README's table again
	$(BIN)/python tools/export_notebooks.py
	$(BIN)/python tools/update_readme.py

release: $(READY)  ## pin notebooks, badges and links to a tag: make release TAG=v0.2.0
	$(BIN)/python tools/pin_release.py "$(TAG)"

clean:  ## remove what was built, but not the installation
	rm -rf _build
	@echo "Removed _build. To install again from nothing: rm -rf .venv .venv-colab .venv-peers"
