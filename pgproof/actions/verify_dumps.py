"""A logical backup proven: every database of it restored into a new scratch server, and its rows counted there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from pgproof.actions.logical_restore import restore_dump_into
from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.control_file import parse_control_file
from pgproof.model.dump_files import GLOBALS
from pgproof.model.dump_log import NotRestored
from pgproof.model.globals_sql import memberships, roles
from pgproof.model.job import Job
from pgproof.model.manifest import DumpedDatabase
from pgproof.model.report import Check
from pgproof.postgres.fresh_cluster import clear_names, make_cluster, make_database
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.pg_dump import RestoreOptions
from pgproof.postgres.programs import Programs
from pgproof.postgres.restore_target import refuse_too_small
from pgproof.postgres.scratch import ScratchServer, scratch_server
from pgproof.repository.dump_reader import DumpReader

RESTORE_OF = "restore of "
_CANNOT = "cannot be checked here"
_START_SECONDS = 600.0
_LARGEST_GLOBALS = 256 << 20
# An empty cluster and its WAL.
_EMPTY = 256 << 20
_OPTIONS = RestoreOptions(tablespaces=False)


@contextmanager
def restored_dumps(
    reader: DumpReader,
    config: BackupConfig,
    place: Path,
    programs: Programs,
    user: OsUser | None,
    checks: list[Check],
    job: Job,
) -> Iterator[ScratchServer]:
    """The server with every database of the backup, as far as they could be restored: `checks` gets what was done.

    Raises PreconditionError where this machine lacks something they need, DataError for damage in the repository.
    """
    manifest = reader.manifest
    refuse_too_small({place: 2 * manifest.size_bytes + _EMPTY})
    superuser = make_cluster(programs, place / "data", user, job)
    control = parse_control_file((place / "data" / "global" / "pg_control").read_bytes())
    failpoint("verify.cluster")
    with scratch_server(
        programs,
        place / "data",
        user=user,
        control=control,
        superuser=superuser,
        job=job,
        timeout=_START_SECONDS,
    ) as server:
        clear_names(server)
        _make_roles(reader, server, checks)
        for database in manifest.databases:
            checks.extend(_restore(reader, database, config, place, server, job))
            failpoint("verify.restored")
        yield server


def _make_roles(reader: DumpReader, server: ScratchServer, checks: list[Check]) -> None:
    """They own things, and views that are filled by the restore need their rights."""
    begun = time.monotonic()
    # Names of roles are bytes in the encoding of whoever made them.
    text = reader.read_whole(GLOBALS, _LARGEST_GLOBALS).decode(errors="surrogateescape")
    found = roles(text)
    wanted = [*(each for made in found.values() for each in made), *memberships(text)]
    failed = []
    with server.connect() as connection:
        connection.execute("SET client_encoding TO 'SQL_ASCII'")
        for statement in wanted:
            try:
                connection.execute(statement.encode(errors="surrogateescape"))
            except psycopg.Error as error:
                failed.append(str(error).splitlines()[0])
    detail = f"{len(found)} roles" + (f"; not made as they were: {failed[0]}" if failed else "")
    checks.append(Check("roles", None if failed else True, detail, "", time.monotonic() - begun))


def _restore(
    reader: DumpReader,
    database: DumpedDatabase,
    config: BackupConfig,
    place: Path,
    server: ScratchServer,
    job: Job,
) -> Iterator[Check]:
    begun = time.monotonic()
    problem = make_database(server, database)
    if problem:
        yield Check(f"locale of {database.name}", None, f"{_CANNOT}: {problem}; restored with the locale C")
    try:
        restored = restore_dump_into(
            reader,
            database,
            server.config(),
            database.name,
            jobs=config.dump_jobs,
            place=place,
            bin_dir=config.bin_dir,
            options=_OPTIONS,
            job=job,
        )
    except NotRestored as error:
        detail = f"{error.message}: {error.context.get('reason', '')}".removesuffix(": ")
        ok = False if database.everything else None
        yield Check(f"{RESTORE_OF}{database.name}", ok, detail, error.hint, time.monotonic() - begun)
        return
    except PreconditionError as error:
        message = error.message if error.message.startswith(_CANNOT) else f"{_CANNOT}: {error.message}"
        raise PreconditionError(message, hint=error.hint, **error.context, database=database.name) from error
    tables, rows = _count(server, database.name, job)
    detail = f"{tables:,} tables, {rows:,} rows; {restored.bytes_read / 1e6:,.1f} MB read"
    yield Check(f"{RESTORE_OF}{database.name}", True, detail, "", time.monotonic() - begun)


def _count(server: ScratchServer, database: str, job: Job) -> tuple[int, int]:
    """Tables that hold rows themselves, and their rows."""
    total = 0
    with server.connect(database) as connection:
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            # Its names are bytes, and this makes each byte a character, there and back.
            connection.execute("SET client_encoding TO 'LATIN1'")
        tables = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for table in tables:
            job.checkpoint()
            query = sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(*table))
            total += connection.execute(query).fetchall()[0][0]
    return len(tables), total
