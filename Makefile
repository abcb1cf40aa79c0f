# The targets a newcomer needs; each makes .venv first when it is absent.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.set-up
# One thread for each test process: two processes of two threads on two cores take longer than two of one.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
WORKERS ?= 2

.PHONY: setup demo test lint bench docs results comparison finn-check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make setup PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,dev,onnx,hls]"
	$(BIN)/python -m pip check
	touch $@

demo: setup
	$(BIN)/quantunet demo

test: setup
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

bench: comparison
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

RESULTS ?= runs/baselines
JOBS ?= 2
# Every published system on every data set, in one table each; what is done is kept, in the folder or as a record of
# this repository, and what was stopped goes on. nice: it may run for hours beside other work.
COMPARE = $(ONE_THREAD) nice $(BIN)/quantunet compare configs/baselines/*.yaml \
	  --on configs/data/em.yaml --on configs/data/gm.yaml --on configs/data/lgg.yaml \
	  --on configs/data/nih.yaml --on configs/data/nih_gentle.yaml --on configs/data/ultrasound.yaml \
	  --seeds 3 --tuned --records benchmarks/records --out $(RESULTS)
results: setup
	$(COMPARE) --jobs $(JOBS)

# The same tables and plots of what is recorded, in seconds; to be rendered again when a record is added.
comparison: setup
	$(COMPARE) --only-table --json > /dev/null
	mkdir -p docs/comparison
	cp $(RESULTS)/compare.md $(RESULTS)/compare_*.svg $(RESULTS)/compare_*.png docs/comparison/

FINN := .venv-finn
# FINN's pins are not ours, so it has an environment of its own (6 GB, most of it PyTorch), and files go between the two.
$(FINN)/.set-up:
	test -x $(FINN)/bin/python || $(PYTHON) -m venv $(FINN)
	$(FINN)/bin/python -m pip install --quiet finn-plus==1.6.1
	touch $@

# RUN: run folders or model files; none: built-in and random graphs, which need no data.
finn-check: setup $(FINN)/.set-up
	$(ONE_THREAD) $(BIN)/python benchmarks/finn_check.py $(if $(RUN),$(RUN) --twin,--graphs 10)

# Links, commands, figures and versions that the documents state.
docs: setup
	$(ONE_THREAD) $(BIN)/python -m pytest tests/test_setup.py

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
