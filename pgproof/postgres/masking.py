"""Change what nobody may see in a copy of a database, by SQL that the operator wrote."""

from __future__ import annotations

import time
from pathlib import Path

from pgproof.errors import PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.job import Job
from pgproof.postgres.client_access import client_access
from pgproof.postgres.programs import Programs
from pgproof.postgres.refusals import without_secrets
from pgproof.postgres.running import Running


def refuse_unreadable(file: Path) -> None:
    """Raise PreconditionError at once where `file` is no SQL to be had."""
    try:
        with file.open("rb") as opened:
            empty = not opened.read(1)
    except OSError as error:
        raise PreconditionError(
            "the file for masking cannot be read",
            hint="correct the name behind --mask",
            file=file,
            reason=error.strerror,
        ) from error
    if empty:
        raise PreconditionError("the file for masking is empty", hint="write SQL into it", file=file)


def run_mask(
    programs: Programs, postgres: PostgresConfig, database: str, file: Path, place: Path, job: Job
) -> None:
    """In one transaction, by psql. Raises PreconditionError at the first error in it."""
    with client_access(postgres, database, place) as access:
        command: list[str | Path] = [
            programs.path("psql"),
            f"--dbname={access.conninfo}",
            "--no-psqlrc",
            "--no-password",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--single-transaction",
            f"--file={file}",
        ]
        with Running(command, access.env) as program:
            while (status := program.poll()) is None:
                job.checkpoint()
                time.sleep(0.05)
            said = without_secrets(program.said, postgres)
    if status:
        wrong = [line for line in said.splitlines() if "ERROR" in line or "error" in line]
        raise PreconditionError(
            "the masking failed, so the copy was dropped",
            hint="correct the SQL and run it again",
            file=file,
            reason=(wrong or said.splitlines() or [f"psql ended with {status}"])[0][:300],
        )
