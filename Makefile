# Everything that the targets need is made in one cache directory; nothing is installed on the host.
#   IMSH_CACHE   where it goes (default: ~/.cache/imsh)
#   IMSH_MIRROR  package archive to use instead of the one that the host's apt is configured with
#   IMSH_QEMU    a QEMU to use instead of a provided one
#   ARGS         more words for the command, e.g. make test ARGS='--kernel debian-6.12'
#   PYTHON       the Python (>= 3.11) that the virtual environment is made of
PYTHON  ?= python3
IMSH_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/imsh
export IMSH_CACHE

# One environment for each checkout and set of dependencies.
VENV    := $(IMSH_CACHE)/venv/$(shell { pwd; $(PYTHON) -VV; cat pyproject.toml; } | cksum | cut -d' ' -f1)
READY   := $(VENV)/.ready
BIN     := $(VENV)/bin
WORKERS ?= $(shell nproc)
PYTEST  := $(BIN)/pytest -n $(WORKERS) --dist loadgroup

.PHONY: help demo test check lint unit bench cost faults validate-demo newest-demo doctor \
	capabilities venv clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')" \
		2>/dev/null || sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST)

demo: $(READY) ## Boot a stock kernel with the IMS device and prove MSI, MSI-X and IMS
	$(BIN)/imsh run $(ARGS)

test: $(READY) ## Run the whole test suite on every guest kernel
	$(BIN)/imsh build
	$(PYTEST) tests $(ARGS)

check: $(READY) lint unit ## Lint, types, and the tests that boot no guest

lint: $(READY)
	$(BIN)/ruff format --check harness tests
	$(BIN)/ruff check harness tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

unit: $(READY)
	$(PYTEST) tests/unit tests/protocol tests/layering

bench: $(READY) ## Measure; writes build/bench.json and prints a table
	$(BIN)/imsh build
	$(BIN)/python -m tests.bench $(ARGS)

cost: $(READY) ## Measure what each path of a message costs; writes docs/trap-cost.md with its plot
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[plot]'
	$(BIN)/imsh build
	$(BIN)/python -m tests.bench.trap_cost_report $(ARGS)

faults: $(READY) ## Seed faults into live guests, one at a time, and score what the tests catch
	$(BIN)/imsh build
	$(BIN)/imsh faults $(ARGS)

validate-demo: $(READY) ## Build the kernel's packaged source; validate and bisect series of ours
	$(BIN)/imsh build
	$(BIN)/pytest tests/series/demo.py $(ARGS)

newest-demo: $(READY) ## Build the newest packaged source of the kernel, and run tests on it
	$(BIN)/imsh build
	$(BIN)/pytest tests/series/newest.py $(ARGS)

doctor: $(READY) ## Say what this machine lacks, and how to get it
	$(BIN)/imsh doctor $(ARGS)

capabilities: $(READY) ## Show what the kept test runs proved, row by row
	$(BIN)/imsh capabilities $(ARGS)

venv: $(READY) ## Make the virtual environment only, and print its path
	@echo $(VENV)

clean: ## Remove results; the cache stays
	rm -rf build

# pip's output is kept in a log: a first-time user sees one line, or the reason why it failed.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "imsh needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 3; }
	@mkdir -p $(VENV)
	@exec 9>$(VENV).lock; flock 9; [ -e $(READY) ] && exit 0; \
	echo "making the virtual environment $(VENV)" >&2; \
	{ $(PYTHON) -m venv --clear $(VENV) && $(BIN)/pip install --quiet --disable-pip-version-check \
		--editable '.[check]'; } >$(VENV).log 2>&1 \
	|| { tail -n 20 $(VENV).log >&2; rm -rf $(VENV); \
		echo "no virtual environment: see $(VENV).log;" \
		"on Debian the package python3-venv is needed" >&2; exit 3; }; \
	touch $(READY)
