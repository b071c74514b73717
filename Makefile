# `make demo` and `make test` do all their own set-up: a virtual environment with pinned packages, data, weights.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test suite lint clean
.DELETE_ON_ERROR:

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch
	$(BIN)/pip install --quiet --editable '.[dev]'
	@$(BIN)/python -c "import torch; assert torch.version.cuda is None or torch.cuda.is_available(), 'a CUDA build of torch was installed on a machine without a GPU'"
	@touch $@

runs/demo/digits.safetensors: $(VENV)/installed
	$(BIN)/laconic train --model zoo:digits_cnn --data digits --epochs 12 --learning-rate 0.05 --out $@

# The main job on real input: a network trained on scanned digits, a budget, and what comes out of it.
demo: runs/demo/digits.safetensors
	$(BIN)/laconic shrink --model zoo:digits_cnn --weights $< --data digits --max-drop 1 --smaller 3 --faster 1.3 --out runs/demo

# Types are checked by one process while the tests begin.
test: $(VENV)/installed
	$(MAKE) --jobs 2 lint suite

suite: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs/demo
