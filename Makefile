# The two commands are `make quickstart` and `make test`; both install what they need first.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install quickstart test test-slow test-chaos test-load check clean

help:
	@echo 'make quickstart   install, run one real sweep (about 5 minutes), show its leaderboard, promote the best trial'
	@echo 'make test         install and run the test suite'
	@echo 'make test-slow    the long tests: killed workers, a killed driver, Ctrl-C'
	@echo 'make test-chaos   20 kills from a seed, on a cluster of four nodes on this machine; KILLS=5 for fewer, SEED=2 for others'
	@echo 'make test-load    500 trials of a second on 32 logical GPUs'
	@echo 'make check        lint, format and types'
	@echo 'make install      make the environment alone, in $(VENV)'

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/install
	@bash scripts/install '$(VENV)'
	@touch '$(STAMP)'

quickstart: install
	@bash scripts/quickstart '$(BIN)'

test: install
	$(BIN)/python -m pytest -m 'not slow and not chaos and not load' $(PYTEST_ARGS)

test-slow: install
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-chaos: install
	SCALESWEEP_CHAOS_KILLS=$(or $(KILLS),20) SCALESWEEP_CHAOS_SEED=$(or $(SEED),1) $(BIN)/python -m pytest -m chaos $(PYTEST_ARGS)

test-load: install
	$(BIN)/python -m pytest -m load $(PYTEST_ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf '$(VENV)' build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
