# `make` alone says what there is.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# More for pytest: make test PYTEST_ARGS="-x tests/unit"
PYTEST_ARGS ?=
# How many times as long `make storm` lets the random tests run.
STORM ?= 20

.DEFAULT_GOAL := help
# Packages come before what is built with them.
.NOTPARALLEL:
.PHONY: help install demo packages packages-demo format lint test storm bench clean

help: ## say what there is
	@awk -F ': .*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## virtual environment in .venv, the program at .venv/bin/vramtap

$(INSTALLED): pyproject.toml hatch_build.py
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev --group clients
	touch $@

demo: packages-demo $(INSTALLED) ## boot a guest and serve its screen to browser and VNC; Ctrl-C ends both
	PYTHONPATH=tests $(RUN)/python -m lab.demo

packages-demo:
	tools/system-packages demo

packages: ## the system packages the tests need: install them when root, name them otherwise
	tools/system-packages

format: $(INSTALLED) ## let ruff lay out the code
	$(RUN)/ruff check --fix --quiet .
	$(RUN)/ruff format --quiet .

lint: $(INSTALLED) ## ruff, mypy --strict, import-linter
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

test: packages $(INSTALLED) lint ## everything CI holds a change to
	$(RUN)/python -m pytest $(PYTEST_ARGS)

storm: packages $(INSTALLED) ## the random tests, long (STORM=20 times)
	$(RUN)/python -m pytest -m storm --storm $(STORM) $(PYTEST_ARGS)

bench: packages $(INSTALLED) ## measure beside QEMU's VNC, x11vnc and x0vncserver; writes README's tables (15 min)
	PYTHONPATH=tests $(RUN)/python -m benchmarks --readme

clean: ## remove what was built; caches of guests are kept
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache src/vramtap/servers/static/novnc
