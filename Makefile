# `make demo` and `make test` do all set-up on a fresh machine with python3, make and, on Debian, apt.
.PHONY: setup demo test check format bench campaign clean

PYTHON := .venv/bin/python

setup:
	@sh scripts/setup.sh

demo: setup
	@$(PYTHON) scripts/db_backup.py demo $(if $(KEEP),--keep)

# Three at a time on two cores: tests mostly wait for servers. TESTS="tests/wal -x" runs some of them.
test: setup
	@$(PYTHON) -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder --max-worker-restart=1 $(TESTS)

# Us beside pg_basebackup, pgBackRest and the raw limits: some hours on a quiet machine. BENCH="--parts stream,commit" or
# BENCH="--rounds 1 --place directory" is less, BENCH=--help tells all.
bench: setup
	@sh scripts/setup-bench.sh
	@$(PYTHON) -m bench $(BENCH)

# Long attacks, several hours: make campaign CAMPAIGN="crash --seed 7", or a part with CAMPAIGN="--share 0.1".
campaign:
	@SETUP_GROUPS="--group fuzz" sh scripts/setup.sh
	@$(PYTHON) -m campaigns $(CAMPAIGN)

check: setup
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: setup
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

clean:
	rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
