# `make demo` and `make test` do all set-up on a fresh machine with python3, make and, on Debian, apt.
.PHONY: setup demo test check format clean

PYTHON := .venv/bin/python

setup:
	@sh scripts/setup.sh

demo: setup
	@$(PYTHON) scripts/db_backup.py demo $(if $(KEEP),--keep)

test: setup
	@$(PYTHON) -m pytest

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
