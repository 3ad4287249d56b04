# One word per chore: `make help`.

PYTHON ?= python3
# Serving: empty means the setting of forethought.toml or FORETHOUGHT_…, else the default.
MODEL ?=
PORT ?=
# Debian packages that the tests need; installed when missing, if we may.
APT_PACKAGES ?= bubblewrap redis-server
TEST_MODELS = smollm2-135m-instruct qwen2.5-coder-0.5b-instruct
PYTEST_OPTIONS ?=
# Most tests wait for servers more than they compute; those with a model use all cores by themselves.
TEST_PROCESSES ?= 3
PARALLEL = -n $(TEST_PROCESSES) --dist loadfile
LOAD ?= fanout overhead

export PYTHON
BIN = .venv/bin
# Written last, so an interrupted installation is done again; newer than pyproject.toml, nothing is
# installed and no network is needed.
ENGINE = .venv/.engine
TOOLS = .venv/.tools

.DEFAULT_GOAL = help
.PHONY: serve test check lint type audit format load clean help models system-packages

serve: $(ENGINE) ## Install, fetch the model once, start the server [MODEL=… PORT=…]
	@exec $(BIN)/forethought serve $(if $(MODEL),--model $(MODEL)) $(if $(PORT),--port $(PORT))

test: system-packages $(TOOLS) models ## Set up what tests need and run them all, on real models too
	@status=0; \
	$(BIN)/pytest -m "not model" $(PARALLEL) $(PYTEST_OPTIONS) || status=$$?; \
	$(BIN)/pytest -m model $(PYTEST_OPTIONS) || status=$$?; \
	exit $$status

check: lint type audit ## Style, types, layers, known vulnerabilities and the fast tests
	$(BIN)/pytest -m "not model and not slow" $(PARALLEL) $(PYTEST_OPTIONS)

lint: $(TOOLS) ## Style and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

type: $(TOOLS) ## Types
	$(BIN)/mypy

audit: $(TOOLS) ## Look for known vulnerabilities of what is installed, where that can be asked
	$(BIN)/python docker/audit.py

format: $(TOOLS) ## Format the code and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

load: $(TOOLS) ## Run the load tests [LOAD="fanout overhead"]
	@for name in $(LOAD); do $(BIN)/python -m loadtests.$$name || exit 1; done

clean: ## Remove what tools left behind (not .venv and the models)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache .coverage loadtests/out
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(ENGINE): pyproject.toml docker/install.sh
	docker/install.sh engine
	@touch $@

$(TOOLS): $(ENGINE)
	docker/install.sh tools
	@touch $@

models: $(ENGINE)
	@for name in $(TEST_MODELS); do $(BIN)/forethought pull $$name || exit 1; done

system-packages:
	@missing=; \
	for package in $(APT_PACKAGES); do \
		dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -qqy --no-install-recommends $$missing; \
	elif [ -n "$$missing" ]; then \
		echo "Missing Debian packages (some tests need them):$$missing" >&2; \
	fi
