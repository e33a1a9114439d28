# Two commands: `make reproduce` runs the thesis, `make test` checks it. Everything else is below.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
PROFILE ?= local
TIER ?= study
EDITION ?= learner
DEVICE ?= cuda
MINUTES ?= 30
WORKERS ?= $(shell $(PYTHON) -c "import os; print(max(1, min(4, os.cpu_count() or 1)))")

.PHONY: help reproduce book slides lab test lint lock execute grid study audit assignment bench gpu gpu-wheels clean

help:
	@echo "make reproduce   run every chapter, write the book (build/html) and the claims table"
	@echo "make book        write the book from what is stored, running nothing"
	@echo "make lab         open working copies of the notebooks in JupyterLab (EDITION=complete: the notebooks themselves)"
	@echo "make test        unit, property, notebook and browser tests"
	@echo "make lint        ruff, formatting, notebook hygiene"
	@echo "make execute CHAPTER=03   re-run one notebook and store its outputs in it"
	@echo "make grid GRID=svmax      run a grid of seeds and settings, or what is left of it (PROFILE=slurm: on a cluster)"
	@echo "make study CHAPTER=05     run a chapter's planned study, or what is left of it, and keep what it found (TIER=real, gpu)"
	@echo "make audit CHAPTER=05     run a study again with a few fresh seeds and compare"
	@echo "make assignment CHAPTER=03  an nbgrader course with this chapter, in course/"
	@echo "make slides CHAPTER=03      slides of this chapter, in build/slides/"
	@echo "make bench       time SVMax, L2-CAF and the two heads on this machine"
	@echo "make gpu         all that needs a GPU, or what is left of it (MINUTES=30; DEVICE=cpu QUICK=1: a trial)"
	@echo "make gpu-wheels  the packages that a machine with a GPU and PyTorch lacks, into wheels/"
	@echo "make lock        renew requirements.lock"
	@echo "make clean       remove build/ and data/cache/"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing the locked packages into .venv (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	@awk '/^[a-z]/ { own = /^uv==/ } own' requirements.lock > .venv/uv.lock
	$(PY) -m pip install --quiet --require-hashes -r .venv/uv.lock
	$(PY) -m uv pip sync --python $(PY) --compile-bytecode --require-hashes requirements.lock
	$(PY) -m uv pip install --python $(PY) --quiet --no-deps --no-build-isolation --editable .
	@$(PY) -m jupyter labextension disable --level=sys_prefix @jupyter/nbgrader >/dev/null 2>&1  # a teacher's menu
	@touch $@

reproduce: $(READY)
	$(PY) -m helpers.chapters reproduce

lab: $(READY)
	$(if $(filter learner,$(EDITION)),$(PY) -m helpers.editions learner)
	$(PY) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/$(if $(filter complete,$(EDITION)),notebooks,$(EDITION))/01_introduction.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root)

assignment: $(READY)
	$(PY) -m helpers.editions assignment $(CHAPTER)

book: $(READY)
	$(PY) -m helpers.chapters book

slides: $(READY)
	$(PY) -m helpers.editions slides $(CHAPTER)

test: $(READY)
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	OMP_NUM_THREADS=1 CTG_WORKERS=1 $(PY) -m pytest -n $(WORKERS) --dist loadscope \
		--nbval-lax --nbval-current-env --nbval-cell-timeout 300 -p no:cacheprovider notebooks

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) tests/notebook_hygiene.py

execute: $(READY)
	$(PY) -m helpers.chapters execute $(CHAPTER)

grid: $(READY)
	$(PY) -m helpers.chapters grid $(if $(GRID),$(GRID) --profile $(PROFILE) $(ARGS))

study: $(READY)
	$(PY) -m helpers.chapters study $(CHAPTER) --tier $(TIER) --profile $(PROFILE) $(ARGS)

audit: $(READY)
	$(PY) -m helpers.chapters audit $(CHAPTER) --tier $(TIER) $(ARGS)

bench: $(READY)
	$(PY) benchmarks/svmax_routes.py
	$(PY) benchmarks/l2_caf_speed.py
	$(PY) benchmarks/two_head_losses.py
	$(PY) benchmarks/two_head_steps.py

gpu: $(READY)
	$(PY) benchmarks/gpu.py --device $(DEVICE) --minutes $(MINUTES) $(if $(QUICK),--quick) $(ARGS)

gpu-wheels: $(READY)
	$(PY) benchmarks/gpu_wheels.py $(ARGS)

lock: $(READY)
	$(PY) -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --quiet --output-file requirements.lock

clean:
	rm -rf build data/cache
