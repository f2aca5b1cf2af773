# The commands are `make quickstart`, `make quickstart-llm` and `make test`; all install what they need first.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LLM_STAMP := $(VENV)/.installed-quickstart-llm

.PHONY: help install quickstart quickstart-llm test test-fast test-slow test-rest test-soak test-load test-chaos test-wandb check clean

help:
	@echo 'make quickstart   install, run one real sweep (about 5 minutes), show its leaderboard, promote the best trial'
	@echo 'make quickstart-llm  the same for a small decoder that learns to answer (about 5 minutes): LoRA, full or gradual'
	@echo 'make install      only make the environment, in $(VENV)'
	@echo 'make test         install, then run the tests in two processes (minutes)'
	@echo 'make test-fast    the tests that use no Ray, no models and no simulation (about a minute), for use while you edit'
	@echo 'make test-slow    the long tests, in two processes: killed workers, a killed driver, Ctrl-C, clusters of several nodes'
	@echo 'make test-rest    what CI leaves out: the rarer architectures, a sweep on an S3 server, nodes that break, Slurm (minutes)'
	@echo 'make test-soak    200 trials in one session, after which nothing has grown; TRIALS=80 for fewer (memory is then not compared)'
	@echo 'make test-load    500 trials of one second on 32 logical GPUs; TRIALS=100 for fewer'
	@echo 'make test-chaos   20 kills on a cluster of four nodes on this machine; KILLS=5 for fewer, SEED=2 for other ones'
	@echo '                  and OUTAGE=15 for shorter outages (of 60 seconds)'
	@echo 'make test-wandb   a stand-in for a W&B server that refuses, fails, drops connections, hangs and is slow (about two minutes)'
	@echo 'make check        lint, formatting and types'
	@echo
	@echo "PYTEST_ARGS adds arguments to any of the test targets: make test PYTEST_ARGS='-k leaderboard -x'"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/install
	@bash scripts/install '$(VENV)'
	@touch '$(STAMP)'

quickstart: install
	@bash scripts/quickstart '$(BIN)'

# What the second quickstart needs is apart, so that the other targets do without it.
$(LLM_STAMP): $(STAMP)
	@bash scripts/install '$(VENV)' quickstart-llm
	@touch '$(LLM_STAMP)'

quickstart-llm: $(LLM_STAMP)
	@bash scripts/quickstart-llm '$(BIN)'

# tests/conftest.py says which test runs in which of the two processes.
IN_TWO := -n 2 --dist loadgroup
SHORT := not rest and not slow and not soak and not load and not chaos and not wandb_server
# Not even imported for `make test-fast`: folders in which every test is left out.
WITHOUT := $(addprefix --ignore=tests/,chaos contracts end_to_end models promotion/test_promotion.py simulation training)

# The tests start hundreds of processes. Each one would compile the sources again.
unexport PYTHONDONTWRITEBYTECODE

test: install
	$(BIN)/python -m pytest $(IN_TWO) -m '$(SHORT)' $(PYTEST_ARGS)

test-fast: install
	$(BIN)/python -m pytest $(IN_TWO) $(WITHOUT) -m '$(SHORT) and not ray and not trains and not simulates' $(PYTEST_ARGS)

test-slow: install
	$(BIN)/python -m pytest $(IN_TWO) -m slow $(PYTEST_ARGS)

test-rest: install
	$(BIN)/python -m pytest $(IN_TWO) -m rest $(PYTEST_ARGS)

test-soak: install
	SCALESWEEP_SOAK_TRIALS=$(or $(TRIALS),200) $(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

test-load: install
	SCALESWEEP_LOAD_TRIALS=$(or $(TRIALS),500) $(BIN)/python -m pytest -m load $(PYTEST_ARGS)

test-chaos: install
	SCALESWEEP_CHAOS_KILLS=$(or $(KILLS),20) SCALESWEEP_CHAOS_SEED=$(or $(SEED),1) \
	SCALESWEEP_OUTAGE_SECONDS=$(or $(OUTAGE),60) $(BIN)/python -m pytest $(IN_TWO) -m chaos $(PYTEST_ARGS)

test-wandb: install
	$(BIN)/python -m pytest $(IN_TWO) --dist load -m wandb_server $(PYTEST_ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf '$(VENV)' prepared build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
