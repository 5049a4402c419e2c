# Needs Python 3.11 or newer with venv. Everything else is installed into .venv, from constraints.txt.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST = $(VENV)/bin/python -m pytest
PRESET ?= station
PRESETS = station short edge quick paper paper-text gaussian coreset us-edge us-paper riad-edge riad-paper bozic-edge \
          bozic-paper reconstruction-edge reconstruction-paper discriminative-edge discriminative-paper

.PHONY: serve test test-avx2 train demo

serve: $(VENV)/.service
	@$(VENV)/bin/python -m service --banner true

# Helm's library is written in Go, whose runtime has crashed the process of a whole test run: it gets one of its own.
HELM_TESTS = $(wildcard tests/deployment/test_helm*.py) tests/deployment/test_observability.py
TRAINING_1 = $(wildcard tests/training/test_[a-l]*.py)
TRAINING_2 = $(wildcard tests/training/test_[m-z]*.py)
SERVICE_1 = $(wildcard tests/service/test_[a-l]*.py)
SERVICE_2 = $(wildcard tests/service/test_[m-z]*.py)
ELSEWHERE = $(HELM_TESTS) $(TRAINING_1) $(TRAINING_2) $(SERVICE_1) $(SERVICE_2)

# Two at a time, a core each, in this order, the longest first; what one says is shown when it ends. Tests may start a make of their own.
CHECKS = check-service-2 check-training-2 check-service-1 check-training-1 check-rest check-types check-helm
CHECK = env -u MAKEFLAGS -u MAKELEVEL OMP_NUM_THREADS=1 $(PYTEST)
.PHONY: $(CHECKS)
test: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	@$(MAKE) --makefile $(firstword $(MAKEFILE_LIST)) --no-print-directory --jobs=2 --keep-going --output-sync=target $(CHECKS)
check-training-1: ; @$(CHECK) $(TRAINING_1)
check-training-2: ; @$(CHECK) $(TRAINING_2)
check-service-1: ; @$(CHECK) $(SERVICE_1)
check-service-2: ; @$(CHECK) $(SERVICE_2)
check-rest: ; @$(CHECK) tests $(addprefix --ignore ,$(ELSEWHERE))
check-helm: ; @$(CHECK) $(HELM_TESTS)
check-types: ; $(VENV)/bin/mypy && $(VENV)/bin/lint-imports

# The tests as on a CPU without AVX-512, VNNI and bfloat16, for PyTorch, OpenVINO and OpenCV; ONNX Runtime cannot be held.
test-avx2: export ONEDNN_MAX_CPU_ISA = AVX2
test-avx2: export ATEN_CPU_CAPABILITY = avx2
test-avx2: export OPENCV_CPU_DISABLE = AVX512-SKX
test-avx2: test

# Asked before anything is installed for it.
ifneq ($(filter train,$(MAKECMDGOALS)),)
ifeq ($(and $(DATA),$(RECIPE)),)
$(error usage: make train DATA=folder-of-good-photos RECIPE=name [TEXTURES=folder] [PRESET=station|short|quick|edge|paper])
endif
ifneq ($(words $(PRESET)) $(filter $(PRESET),$(PRESETS)),1 $(PRESET))
$(error PRESET=$(PRESET): no such preset; there are $(PRESETS))
endif
ifneq ($(shell printf %s "$(RECIPE)" | grep -Ex '[A-Za-z0-9][A-Za-z0-9._-]{0,63}'),$(RECIPE))
$(error RECIPE=$(RECIPE): a name is of letters, digits, dots, dashes and underscores, 64 at most)
endif
ifneq ($(shell test -d "$(DATA)" && echo there),there)
$(error $(DATA): no such folder)
endif
ifneq ($(shell test -z "$(TEXTURES)" || test -d "$(TEXTURES)" && echo there),there)
$(error $(TEXTURES): no such folder of textures; without TEXTURES they are procedural)
endif
endif
train: $(VENV)/.training
	$(VENV)/bin/python -m training train --data "$(DATA)" --recipe "$(RECIPE)" --preset $(PRESET) $(if $(TEXTURES),--textures "$(TEXTURES)")

# Remakes the demo recipe in models/demo from nothing; see models/README.md.
demo: $(VENV)/.training
	rm -rf models/demo/1 runs/demo runs/demo-data
	$(VENV)/bin/python -m training demo-data runs/demo-data
	$(VENV)/bin/python -m training train --data runs/demo-data --recipe demo --version 1 --preset quick --rotate-degrees 15

# Each stamp is newer than what its installation depends on.
$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(PIP) pip
	@touch $@

$(VENV)/.service: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) --editable '.[cpu]'
	@touch $@

$(VENV)/.training: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) --editable '.[cpu,training]'
	@touch $@ $(VENV)/.service

$(VENV)/.dev: $(VENV)/.training
	$(PIP) --group dev
	@touch $@
