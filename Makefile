# Needs Python 3.11 or newer with venv. Everything else is installed into .venv, from constraints.txt.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PRESET ?= edge

.PHONY: serve test train demo

serve: $(VENV)/.service
	@$(VENV)/bin/python -m service --banner true

# Helm's library is written in Go, whose runtime has crashed the process of a whole test run: it gets one of its own.
HELM_TESTS = $(wildcard tests/deployment/test_helm*.py) tests/deployment/test_observability.py
test: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m pytest $(addprefix --ignore ,$(HELM_TESTS))
	$(VENV)/bin/python -m pytest $(HELM_TESTS)

train: $(VENV)/.training
	@test -n "$(DATA)" -a -n "$(RECIPE)" || { echo "usage: make train DATA=folder-of-good-photos RECIPE=name [TEXTURES=folder] [PRESET=quick|edge|paper]"; exit 2; }
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
