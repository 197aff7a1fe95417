# Verbs. Each makes the virtual environment first, from the hash-locked requirements.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := build/docs-env
unexport PYTHONDONTWRITEBYTECODE  # without bytecode every process compiles all packages again
VERIFIER := cffi|cryptography|flatbuffers|numpy|onnxruntime|packaging|protobuf|pycparser|setuptools

.PHONY: demo test slow processors check bench docs lock

demo: $(READY)            ## the main job on real images, in about a minute
	$(BIN)/qmu-edge demo

test: $(READY)            ## all tests but the slow ones
	$(BIN)/python -m pytest -n 2 --dist worksteal

slow: $(READY)            ## the slow tests
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

processors: $(READY)      ## exported files on emulated processors; installs QEMU
	$(BIN)/python -m pytest -m slow tests/processors -v

check: $(READY)           ## style, types, import rules
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(READY)           ## speed and size ratios, written to bench/results
	$(BIN)/python bench/speed.py && $(BIN)/python bench/export.py

docs: $(DOCS)/.ready      ## these pages as a site: build/docs/site/index.html
	$(DOCS)/bin/python bench/docs.py

lock: $(READY)            ## renew requirements.lock from pyproject.toml, and the verifier's part of it
	$(BIN)/pip-compile --quiet --output-file requirements.lock pyproject.toml
	{ head -n 1 export/ci/verifier.lock; awk '/^[A-Za-z0-9]/ { kept = $$1 ~ /^($(VERIFIER))==/ } \
	kept && !/^ *#/' requirements.lock; } > $(VENV)/verifier.lock
	mv $(VENV)/verifier.lock export/ci/verifier.lock

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --require-hashes --requirement requirements.lock
	$(BIN)/pip install -qq --no-deps --no-build-isolation --editable .
	touch $@

$(DOCS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install -qq --editable ".[docs]"
	touch $@
