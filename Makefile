# `make` or `make help` lists what there is. Written for GNU make 3.81 (macOS) and later.

# Any Python 3.11 to 3.13; when this one does not serve, others on the PATH are tried.
PYTHON ?= python3
# Flags of nbval: --nbval compares stored outputs, --nbval-lax only runs the notebooks.
NBVAL ?= --nbval

# Values reach the recipes through the environment, so that spaces and quotes in them are safe.
export PYTHON DATASET DATASETS NOTEBOOKS MAX_BYTES

# What nbval runs: of notebooks that take long their slices, unless FULL is set.
SLICES = $(wildcard tests/slices/*.ipynb)
STORED = $(if $(FULL),notebooks,$(filter-out $(SLICES:tests/slices/%=notebooks/%),$(wildcard \
	notebooks/*.ipynb)) $(SLICES))

# Whether bench compares with other libraries.
COMPARE = $(filter-out 0,$(PEERS))

# What runs things: an activated conda environment of environment.yml, else .venv.
ifeq ($(CONDA_DEFAULT_ENV),pqlib)
RUN = "$$CONDA_PREFIX/bin/python"
ENVIRONMENT = $(RUN) scripts/environment.py --here
else
RUN = .venv/bin/python
ENVIRONMENT = command -v "$$PYTHON" >/dev/null 2>&1 || { \
	echo "make: no $$PYTHON here. Install Python 3.11 to 3.13, or name one: make PYTHON=..." >&2; \
	exit 1; }; "$$PYTHON" scripts/environment.py
endif

.PHONY: help environment publish perturb figures data test stress versions supply bench lab notebooks readme lint format clean distclean lock photo-sift
.DEFAULT_GOAL := help

help:  ## list the targets
	@echo "make TARGET [VARIABLE=value ...]"
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r name text; do printf '  %-11s %s\n' "$$name" "$$text"; done
	@echo
	@echo "Variables:"
	@echo "  DATASET     a registered name or a path to a file of vectors (default: photo-sift)"
	@echo "  DATASETS    several of them, separated by spaces"
	@echo "  NOTEBOOKS   numbers or names, such as \"01 03\" (default: all)"
	@echo "  PEERS=1     with bench: beside other libraries, which it installs (peers.* instead)"
	@echo "  MAX_BYTES   with PEERS=1: bytes per vector that our index may take (also without limit)"
	@echo "  FULL=1      with test: all notebooks whole, none of them on a slice of the data"
	@echo "  PYTHON      the Python to make .venv with (default: python3)"
	@echo
	@echo "PQLIB_DATA_DIR names a folder that is looked in before anything is downloaded."

environment:
	@$(ENVIRONMENT)

figures: environment  ## run the notebooks for DATASET or DATASETS: figures/, results/
	@$(RUN) -m pqlib.study.pipeline figures $${DATASET:+--dataset "$$DATASET"} \
		$${DATASETS:+--datasets "$$DATASETS"} $${NOTEBOOKS:+--notebooks "$$NOTEBOOKS"}

data: environment  ## fetch DATASET and verify it, without running anything
	@$(RUN) -m pqlib.datasets "$${DATASET:-photo-sift}"

# One thread for each of the workers: with more they would wait for each other. What has to hold for
# several threads sets them itself.
test: environment  ## lint, types, unit tests, and the notebooks against their stored outputs
	@echo "ruff";  $(RUN) -m ruff check --quiet . && $(RUN) -m ruff format --check --quiet .
	@echo "mypy";  $(RUN) -m mypy --no-error-summary
	@echo "pytest"
	@PQLIB_STRICT_FIGURES=1 TQDM_DISABLE=1 PYDEVD_DISABLE_FILE_VALIDATION=1 \
		OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-passive} \
		OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} OPENBLAS_NUM_THREADS=$${OPENBLAS_NUM_THREADS:-1} \
		$(RUN) -m pytest --quiet -n $${JOBS:-2} --dist loadfile --no-loadscope-reorder $(NBVAL) --nbval-current-env \
		--nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600 $(STORED) tests/*.py

stress: environment  ## the long harnesses: spoilt files, kills, odd machines, load (half an hour)
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-passive} $(RUN) scripts/stress

versions: environment  ## run the tests with the oldest and the newest numpy, faiss-cpu and h5py
	@$(RUN) scripts/versions.py

supply: environment  ## check what is installed: does it fit, is it safe, under which licences
	@$(RUN) scripts/supply.py

bench: environment  ## measure our index beside faiss's on DATASET: bench.* in figures/ and results/
	@$(if $(COMPARE),$(RUN) scripts/peers.py &&) OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-passive} \
		$(RUN) -m pqlib.study.pipeline bench $${DATASET:+--dataset "$$DATASET"} \
		$(if $(COMPARE),--peers $${MAX_BYTES:+--max-bytes "$$MAX_BYTES"})

lab: environment  ## open JupyterLab; .py and .ipynb of a notebook are kept in step
	@JUPYTER_PREFER_ENV_PATH=1 $(RUN) -c \
		"from pqlib.study.pipeline.data import make_folders_absolute; make_folders_absolute(); \
		import jupyterlab.labapp; jupyterlab.labapp.main()" \
		--notebook-dir . --LabApp.default_url=/lab/tree/notebooks

notebooks: environment  ## run NOTEBOOKS on their data and store them with their outputs
	@$(RUN) -m pqlib.study.pipeline notebooks $${NOTEBOOKS:+--notebooks "$$NOTEBOOKS"}

publish: environment  ## copy the runs of DATASET to the committed figures and results
	@$(RUN) -m pqlib.study.pipeline publish $${DATASET:+--dataset "$$DATASET"} \
		$${DATASETS:+--datasets "$$DATASETS"}

perturb: environment  ## show that no test depends on timings: change all, run what reads results
	@$(RUN) scripts/perturb.py

readme: environment  ## compute the numbers of README and docs/ from the committed results
	@$(RUN) scripts/readme.py

lint: environment  ## check style and types
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy

format: environment  ## put the sources into the common format
	@$(RUN) -m ruff check --fix . && $(RUN) -m ruff format .

clean:  ## remove caches of tools; spares figures, results, runs, data and .venv
	@echo "Removing caches: __pycache__, .ipynb_checkpoints, .pytest_cache, .ruff_cache, .mypy_cache"
	@find . -path ./.venv -prune -o -path ./.git -prune -o -type d \
		\( -name __pycache__ -o -name .ipynb_checkpoints -o -name .pytest_cache \
		-o -name .ruff_cache -o -name .mypy_cache \) -prune -exec rm -rf {} +
	@rm -rf build dist pqlib.egg-info

distclean: clean  ## also remove .venv and runs/: the next make starts from nothing
	@echo "Removing .venv and runs/ (figures/, results/ and downloaded data stay)"
	@rm -rf .venv runs

# uv resolves for all supported versions at once; it lives in an environment of its own, since it
# is no dependency of anything else. What the lock holds already stays as it is where it can.
lock:  ## bring requirements.lock in line with pyproject.toml (UPGRADE=1: all to the newest)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
		"$$PYTHON" -m venv "$$folder" && "$$folder/bin/pip" install --quiet uv && \
		"$$folder/bin/uv" pip compile --quiet $(if $(UPGRADE),--upgrade) pyproject.toml \
		--extra dev --universal --python-version 3.11 --fork-strategy fewest \
		--generate-hashes --no-emit-index-url --no-header --no-annotate \
		--output-file requirements.lock

photo-sift: environment  ## make the embedded data set anew from its photographs
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
		$(RUN) -m venv "$$folder" && \
		"$$folder/bin/pip" install --quiet --editable ".[photo-sift]" && \
		"$$folder/bin/python" scripts/make_photo_sift.py
