# Everything a fresh machine needs is installed into .venv; no compiler is called.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
BUDGET ?= 5m
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Else each of the many processes of the tests would compile all that it imports, and pytest would rewrite every test file.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install install-dev install-all demo docs notebooks test suite ci test-fast test-tracking test-cluster test-ray lint types checks clean

# Python brings an old pip, which takes twice the processor time of a new one to find out what to install; it would do.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cotune needs Python 3.11 or newer; set PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python venv is missing: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install -q --no-compile --upgrade pip || true

# Python compiles what is imported; compiling all that is installed beforehand takes a minute. What a run imports is compiled here
# in a few seconds, which the first run would need otherwise.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --no-compile -e .
	@$(BIN)/python -c "import cotune.cycle.run, cotune.cycle.policies, transformers.models.llama.modeling_llama, sklearn.linear_model" || true
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --no-compile -e '.[dev]'
	@touch $@ $(VENV)/.installed

# The first import compiles: once here, while the types are checked, instead of in every test process at the same time. So does the
# table of all characters that hypothesis draws texts from, which takes seconds and is kept in .hypothesis.
$(VENV)/.compiled: $(VENV)/.installed-dev
	@$(BIN)/pytest -n 0 --collect-only -qq >/dev/null 2>&1 || true
	@$(BIN)/python -c "from hypothesis import strategies; strategies.text().validate()" || true
	@PYTHONPATH=tests/cycle $(BIN)/python -c "import cycle_server; cycle_server.load()" || true
	@touch $@

$(VENV)/.installed-ray: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --no-compile -e '.[dev,ray]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-dev

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --no-compile -e '.[docs,frames]'
	@touch $@ $(VENV)/.installed

# For .ci/run, which needs all: each further call of pip would build the package and resolve all requirements once more.
$(VENV)/.installed-all: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --no-compile -e '.[dev,docs,ray]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-dev $(VENV)/.installed-docs $(VENV)/.installed-ray

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

install-all: $(VENV)/.installed-all

demo: install
	$(BIN)/cotune run examples/support/task.yaml --budget $(BUDGET) --out $(OUT)
	$(BIN)/cotune predict $(OUT)/best --input "my parcel still says out for delivery since tuesday??"
	@echo "To use cotune in this terminal: . $(BIN)/activate"

# The documentation site, in build/site/html; a link that leads nowhere is an error.
docs: $(VENV)/.installed-docs
	$(BIN)/python docs/site/build.py

# Runs the notebooks with the bundled model, about five minutes, and keeps what they show.
notebooks: $(VENV)/.installed-docs
	rm -rf docs/notebooks/runs
	cd docs/notebooks && PATH="$(abspath $(BIN)):$$PATH" jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False *.ipynb

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	$(BIN)/mypy

# The types take longest, so they begin first.
checks: types lint $(VENV)/.compiled

# One thread a worker: two torch processes with two threads each starve one another. Tests that start processes and wait for them may
# run out of time on a busy machine, so those that fail run once more, one at a time; what fails twice fails the suite.
test: install-dev
	@$(MAKE) --no-print-directory -j 2 checks
	@$(MAKE) --no-print-directory suite

suite: install-dev
	export OMP_NUM_THREADS=1; $(BIN)/pytest -n $${COTUNE_TEST_WORKERS:-3} --dist loadfile --no-loadscope-reorder || { \
		[ $$? = 1 ] && echo "Once more, one at a time: the tests that failed" && \
		$(BIN)/pytest -n 0 -rA --last-failed --last-failed-no-failures none; }

# The inner loop: what needs neither a model's minutes nor a browser.
test-fast: install-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $${COTUNE_TEST_WORKERS:-3} --dist loadfile tests/task tests/prompt tests/refine tests/probe tests/tune \
		tests/evaluate/test_paired.py tests/evaluate/test_intervals.py tests/evaluate/test_references.py tests/test_config.py tests/test_structure.py

# The trackers' own packages are heavy, and mlflow pins others: they get an environment beside the usual one.
test-tracking:
	@$(MAKE) --no-print-directory VENV=.venv-tracking install-dev
	.venv-tracking/bin/pip install -q --no-compile -e '.[dev,mlflow,wandb,tensorboard]'
	OMP_NUM_THREADS=1 .venv-tracking/bin/pytest -n 0 tests/tracking

# For .ci/run, in one order: Ray's processes beside the suite's make both several times slower.
ci: install-all
	@$(MAKE) --no-print-directory -j 2 checks docs
	@$(MAKE) --no-print-directory suite
	@$(MAKE) --no-print-directory test-ray

# Ray too: clusters of two and of four small nodes on this machine, about ten minutes. All files are named: if
# their folder is, pytest leaves out those that tests/conftest.py ignores.
test-cluster:
	@$(MAKE) --no-print-directory VENV=.venv-cluster install-dev
	.venv-cluster/bin/pip install -q --no-compile -e '.[dev,ray]'
	OMP_NUM_THREADS=1 .venv-cluster/bin/pytest -n 0 tests/executor/test_*.py \
		tests/bundle/test_predict_on_ray.py tests/cycle/test_run_on_ray.py

# One run of each kind on Ray, in the environment of the other tests: what continuous integration has time for.
test-ray: $(VENV)/.installed-ray
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 \
		tests/executor/test_ray.py::test_two_nodes_give_the_same_in_the_same_order \
		tests/executor/test_ray.py::test_killed_actors_cost_their_job_one_more_try \
		tests/cycle/test_run_on_ray.py::test_two_nodes_give_what_one_process_does

clean:
	rm -rf build $(VENV) .venv-tracking .venv-cluster .pytest_cache .mypy_cache .ruff_cache .hypothesis
