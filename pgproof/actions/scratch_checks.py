"""What a started backup is asked: every page, every index, every row, and the user's own questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import UserCheck
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.report import Check
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.programs import Programs, execute
from pgproof.postgres.scratch import ScratchServer

_HOURS = 24 * 3600.0


def while_running(
    server: ScratchServer,
    checks: Sequence[UserCheck],
    everything: bool,
    job: Job,
    check_seconds: float = _HOURS,
) -> Iterator[Check]:
    """Checks of a running scratch server: every database answers, and with `everything` all the rest.

    Each of the user's `checks` may take `check_seconds`.
    """
    databases = server.databases()
    yield _timed("databases answer", lambda: _answer(server, databases))
    if count := server.nameless():
        yield Check("databases whose names are not UTF-8", None, f"{count}; restored, and not looked at")
    if not everything:
        return
    job.report("checking indexes and tables")
    yield _timed("pg_amcheck", lambda: _amcheck(server))
    job.report("checking visibility maps")
    yield _timed("pg_visibility", lambda: _visibility(server, databases, job))
    for database in databases:
        job.report(f"dumping {database}")
        yield _timed(f"dump of {database}", partial(_dump, server, database))
    for check in checks:
        yield _timed(f"check {check.name}", partial(_ask, server, check, check_seconds))


def after_shutdown(
    programs: Programs, data_dir: Path, manifest: Manifest, user: OsUser | None, job: Job
) -> Iterator[Check]:
    """Checks that need the server stopped: the checksum of every page."""
    if not manifest.data_checksums:
        yield Check("pg_checksums", None, "the cluster has no data checksums")
        return
    job.report("checking page checksums")

    def run() -> str:
        done = execute(
            [programs.path("pg_checksums"), "--check", "--pgdata", data_dir],
            user=user,
            timeout=_HOURS,
            what="pg_checksums",
            job=job,
        )
        return "" if done.status == 0 else done.stderr

    yield _timed("pg_checksums", run)


def _timed(name: str, work: Callable[[], str]) -> Check:
    """Run a check; it returns what is wrong, or nothing. A missing program is "not checked", never damage."""
    begun = time.monotonic()
    try:
        problem = work()
    except PreconditionError as error:
        return Check(name, None, error.message, error.hint, time.monotonic() - begun)
    except EngineError as error:
        return Check(name, False, error.message, error.hint, time.monotonic() - begun)
    except psycopg.Error as error:
        problem = str(error)
    return Check(name, not problem, _short(problem), "", time.monotonic() - begun)


def _answer(server: ScratchServer, databases: Sequence[str]) -> str:
    for database in databases:
        with server.connect(database) as connection:
            connection.execute("SELECT count(*) FROM pg_class")
    return ""


def _amcheck(server: ScratchServer) -> str:
    done = server.execute(
        "pg_amcheck",
        "--all",
        "--install-missing",
        "--heapallindexed",
        "--parent-check",
        "--jobs=2",
        timeout=_HOURS,
    )
    # Corruption is told on standard output with status 2; other failures on standard error.
    return "" if done.status == 0 else (done.stdout.strip() or done.stderr)


_VISIBILITY = """
    SELECT c.oid::regclass::text
    FROM pg_class c
    WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't'
      AND (EXISTS (SELECT FROM {schema}.pg_check_visible(c.oid))
           OR EXISTS (SELECT FROM {schema}.pg_check_frozen(c.oid)))
"""
# The cluster may have it already, in any schema.
_VISIBILITY_SCHEMA = """
    SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
    WHERE extname = 'pg_visibility'
"""


def _visibility(server: ScratchServer, databases: Sequence[str], job: Job) -> str:
    wrong = []
    for database in databases:
        job.checkpoint()
        with server.connect(database) as connection:
            try:
                connection.execute("CREATE EXTENSION IF NOT EXISTS pg_visibility SCHEMA pg_catalog")
            except psycopg.errors.FeatureNotSupported as error:
                raise PreconditionError(
                    "the extension pg_visibility is not installed here",
                    hint="install PostgreSQL's contrib package",
                ) from error
            (schema,) = connection.execute(_VISIBILITY_SCHEMA).fetchall()[0]
            query = sql.SQL(_VISIBILITY).format(schema=sql.Identifier(schema))
            wrong += [f"{database}: {row[0]}" for row in connection.execute(query).fetchall()]
    return f"wrong visibility map of {', '.join(wrong)}" if wrong else ""


def _dump(server: ScratchServer, database: str) -> str:
    done = server.execute(
        "pg_dump",
        "--format=custom",
        "--compress=0",
        "--no-sync",
        "--file=/dev/null",
        f"--dbname={make_conninfo(dbname=database)}",
        timeout=_HOURS,
    )
    return "" if done.status == 0 else done.stderr


def _ask(server: ScratchServer, check: UserCheck, seconds: float) -> str:
    """One statement, which changes nothing. Rows are counted as they come: a wrong query may return many."""
    rows = wrong = 0
    with server.connect(check.database) as connection:
        connection.execute(f"SET statement_timeout = {max(1, round(seconds * 1000))}")
        connection.read_only = True
        with connection.transaction(), connection.cursor() as cursor:
            for row in cursor.stream(check.sql.encode()):
                rows += 1
                wrong += not row or row[0] is not True
    if not rows:
        return "the query returned no rows"
    return f"{wrong} of {rows} rows are not true" if wrong else ""


def _short(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return "\n".join(lines[:10]) + (f"\n… and {len(lines) - 10} more lines" if len(lines) > 10 else "")
