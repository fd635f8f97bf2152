# The two commands of the README are `make demo` and `make test`; each sets up `.venv` by itself.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
SOURCES := schemas operators infra pipelines jobs tests

export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: demo test test-slow ceph machines browser docs lint format lock clean

demo: .venv/installed
	$(BIN)/onetoken demo

test: .venv/installed
	$(BIN)/pytest -m "not slow and not gpu" -n 2 --dist loadfile --durations 20

# Alone on the machine: some of these tests measure time and memory.
test-slow: .venv/installed
	$(BIN)/pytest -m "slow and not gpu" --timeout 3600 -o faulthandler_timeout=3900 -rs --durations 20

# A real S3 server for the tests (Debian, root); where it cannot be had they run on a mock, and say so.
ceph: .venv/installed
	$(BIN)/python -m infra.s3_server install || echo "The S3 tests will run on moto."

# What the tests of lost machines need (Debian, root); they are skipped elsewhere, and say why.
machines:
	command -v ip > /dev/null || apt-get install --yes -qq --no-install-recommends iproute2 || true

# What the tests of pages need (Debian, root); they are skipped elsewhere, and say why.
browser:
	command -v chromium > /dev/null || apt-get install --yes -qq --no-install-recommends chromium || true

# The documentation, below site/; a link that leads nowhere is an error.
docs: .venv/documented
	$(BIN)/python -m jobs.reference docs
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

.venv/documented: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[docs]" -c requirements.lock
	touch $@

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell $(SOURCES) docs README.md Makefile
	$(BIN)/hadolint infra/docker/Dockerfile

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]" -c requirements.lock
	touch $@

# Pins what is installed now. The local part of torch's version is left out: it names one machine's build.
lock: .venv/installed
	$(BIN)/pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' > requirements.lock

clean:
	rm -rf .venv onetoken-demo
