# Every target makes the environment it needs, once; `make help` lists them.
# To use another Python: make PYTHON=python3.12 test

PYTHON ?= python3
VENV   ?= .venv
LOWEST ?= .venv-lowest
CT2    ?= .venv-ctranslate2
ONNX   ?= .venv-onnx
JOBS   ?= 2
ARGS   ?=

PYTEST = pytest -n $(JOBS) --dist loadfile

.PHONY: help demo test test-lowest lint check-ctranslate2 check-onnxruntime clean
.DEFAULT_GOAL := help

help:
	@echo "make demo               distil the embedded teacher and show every size between (ARGS=... passes on)"
	@echo "make test               the whole suite, lint and types"
	@echo "make test-lowest        the suite on the lower bounds of all direct dependencies but torch"
	@echo "make lint               ruff and mypy alone"
	@echo "make check-ctranslate2  run built members in CTranslate2 and compare with transformers"
	@echo "make check-onnxruntime  the same in ONNX Runtime"
	@echo "make clean              remove environments and caches"

demo: $(VENV)/.ready
	$(VENV)/bin/boomerang demo $(ARGS)

test: $(VENV)/.ready
	$(VENV)/bin/$(PYTEST)
	$(MAKE) lint

test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/$(PYTEST)

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

check-ctranslate2: $(CT2)/.ready
	$(CT2)/bin/python tools/run_in_ctranslate2.py

check-onnxruntime: $(ONNX)/.ready
	$(ONNX)/bin/python tools/run_in_onnxruntime.py

clean:
	rm -rf $(VENV) $(LOWEST) $(CT2) $(ONNX) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamp is written last and removed before any change, so an environment without one is
# half-made and starts over; one with an old stamp is brought up to date in place.
define fresh-venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"boomerang needs Python 3.11 or later: make PYTHON=/path/to/python $(MAKECMDGOALS)")'
@test -f $@ || $(PYTHON) -m venv --clear $(@D)
@rm -f $@
endef

# torch first and pinned, so that the build at hand is taken and nothing else pulls in another.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(fresh-venv)
	$(@D)/bin/pip install $$(grep '^torch==' constraints.txt)
	$(@D)/bin/pip install -c constraints.txt -e '.[dev]'
	@touch $@

$(LOWEST)/.ready: pyproject.toml constraints.txt tools/lowest.py
	$(fresh-venv)
	$(PYTHON) tools/lowest.py > $(@D)/lowest.txt
	$(@D)/bin/pip install $$(grep '^torch==' constraints.txt)
	$(@D)/bin/pip install -c $(@D)/lowest.txt -e '.[dev]'
	@touch $@

# Other tools to run members with: not dependencies, so pinned here alone.
$(CT2)/.ready: EXTRA = ctranslate2==4.8.5
$(ONNX)/.ready: EXTRA = onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
$(CT2)/.ready $(ONNX)/.ready: pyproject.toml constraints.txt Makefile
	$(fresh-venv)
	$(@D)/bin/pip install $$(grep '^torch==' constraints.txt)
	$(@D)/bin/pip install -c constraints.txt -e . $(EXTRA)
	@touch $@
