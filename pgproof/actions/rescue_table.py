"""Bring a table of a backup back beside the live one, and compare the two."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from pgproof.actions.opening import open_for_reading
from pgproof.actions.rescued_rows import compare_live, csv_file
from pgproof.actions.scratch_dump import dumped_table
from pgproof.actions.scratch_recovery import recovered_scratch
from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.rescue_request import RescueRequest
from pgproof.model.table_names import TableName, rescued_name
from pgproof.model.table_rescue import (
    LeftOut,
    RescueReport,
)
from pgproof.postgres.connection import connect
from pgproof.postgres.row_text import fix_settings
from pgproof.postgres.stopping import stopping
from pgproof.postgres.table_placing import add_the_rest, copy_rows, create_table
from pgproof.postgres.table_shape import names_alike, read_shape, schema_exists
from pgproof.repository.catalog import find_dump
from pgproof.repository.repository import Repository

_log = logging.getLogger(__name__)
Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class _Source:
    """A database that holds the table as it is wanted, and where it comes from."""

    connect: Callable[[], Connection]
    backup_id: str
    target: str
    end_lsn: str
    notes: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()


def rescue_table(
    postgres: PostgresConfig, config: BackupConfig, request: RescueRequest, job: Job
) -> RescueReport:
    """Place the table of the backup beside the live one and compare the two; the live table is only read.

    Killed at any point, it leaves the whole rescued table or nothing. Raises PreconditionError where something is
    in the way, before anything is restored if that can be known.
    """
    begun = time.monotonic()
    with connect(postgres, name="pgproof_rescue") as live:
        target = _choose_target(live, request, datetime.now(UTC), job)
        with csv_file(request.csv) as write_csv:
            job.report("opening repository")
            repository = open_for_reading(config)
            database = _database(live)
            with _source(repository, config, request, database, job) as source:
                rows, left_out = _bring(live, source, request.table, target, job)
            failpoint("rescue.placed")
            comparison = None
            if target != request.table:
                comparison = compare_live(live, request.table, target, request.rows_shown, write_csv, job)
        report = RescueReport(
            database,
            request.table,
            target,
            source.backup_id,
            source.target,
            source.end_lsn,
            rows,
            time.monotonic() - begun,
            comparison,
            tuple(left_out),
            source.notes,
            str(request.csv) if request.csv and comparison else None,
        )
    _log.info(
        "table rescued database=%s table=%s into=%s rows=%d backup=%s seconds=%.1f",
        report.database,
        report.table,
        report.rescued,
        rows,
        report.backup_id,
        report.seconds,
    )
    return report


def _choose_target(live: Connection, request: RescueRequest, now: datetime, job: Job) -> TableName:
    """The name of the rescued table, after everything that can be refused before a restore."""
    target = request.into or rescued_name(request.table, now)
    with stopping(job, "a look at the database", live), live.transaction():
        fix_settings(live)
        if not schema_exists(live, target.schema):
            raise PreconditionError(
                "the schema for the rescued table does not exist",
                hint=f"create it, or name another table: --into {request.table.schema}_rescued.NAME",
                schema=target.schema,
            )
        row = live.execute(
            "SELECT pg_is_in_recovery(), has_schema_privilege(%s, 'CREATE'), "
            "EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "        WHERE n.nspname = %s AND c.relname = %s)",
            [target.schema, target.schema, target.table],
        ).fetchone()
        assert row is not None
        if row[0]:
            raise PreconditionError(
                "this server is a standby, and takes no table", hint="connect to its primary"
            )
        if row[2]:
            raise PreconditionError(
                "a relation of this name exists already",
                hint="give another name with --into, or compare with it: --rescued",
                table=target,
            )
        if not row[1]:
            raise PreconditionError(
                "the role may not create a table in this schema",
                hint="grant it CREATE on the schema, or name a table elsewhere with --into",
                schema=target.schema,
            )
        read_shape(live, request.table)  # it may be no table
    return target


def _database(live: Connection) -> str:
    row = live.execute("SELECT pg_catalog.current_database()").fetchone()
    assert row is not None
    return str(row[0])


def _source(
    repository: Repository, config: BackupConfig, request: RescueRequest, database: str, job: Job
) -> AbstractContextManager[_Source]:
    target = request.recovery.target
    manifest = find_dump(repository, request.backup_id or (None if target else "latest"), target)
    if manifest is not None:
        return _logical(repository, config, manifest, request.table, database, job)
    return _physical(repository, config, request, database, job)


@contextmanager
def _logical(
    repository: Repository,
    config: BackupConfig,
    manifest: Manifest,
    table: TableName,
    database: str,
    job: Job,
) -> Iterator[_Source]:
    with dumped_table(repository, config, manifest, database, table, job) as (server, rest):
        taken = f"the dump of {manifest.started_at:%Y-%m-%d %H:%M:%S} UTC"
        yield _Source(lambda: server.connect(database), manifest.backup_id, taken, "", (), tuple(rest))


@contextmanager
def _physical(
    repository: Repository, config: BackupConfig, request: RescueRequest, database: str, job: Job
) -> Iterator[_Source]:
    with recovered_scratch(repository, config, request.backup_id, request.recovery, job) as scratch:
        known = scratch.server.databases()
        if database not in known:
            raise PreconditionError(
                "the backup has no such database at this point",
                hint=f"connect to one of these with --dbname: {', '.join(known)}",
                database=database,
            )
        yield _Source(
            lambda: scratch.server.connect(database),
            scratch.manifest.backup_id,
            str(request.recovery.wanted),
            str(scratch.server.end_of_recovery_lsn),
            scratch.plan.notes,
        )


def _bring(
    live: Connection, source: _Source, table: TableName, target: TableName, job: Job
) -> tuple[int, list[LeftOut]]:
    """All of it in one transaction."""
    with source.connect() as there, stopping(job, "the rescue", live, there):
        live.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        with there.transaction(), live.transaction():
            fix_settings(there)
            fix_settings(live)
            shape = read_shape(there, table)
            if shape is None:
                alike = ", ".join(names_alike(there, table))
                raise PreconditionError(
                    "the backup has no such table at this point",
                    hint=f"did you mean {alike}?" if alike else "choose an earlier or a later target",
                    table=table,
                )
            if shape.unlogged:
                raise PreconditionError(
                    "the table is unlogged, so physical backups hold none of its rows",
                    hint="take a logical backup of it the next time",
                    table=table,
                )
            if not shape.columns:
                raise PreconditionError(
                    "the table has no columns", hint="there is nothing to rescue", table=table
                )
            comment = f"{table} as of {source.target}, rescued by pgproof from backup {source.backup_id}"
            create_table(live, target, shape, comment)
            failpoint("rescue.created")
            rows = copy_rows(there, shape, live, target, job)
            job.report("making keys and indexes")
            left_out = [*add_the_rest(live, target, shape), *source.left_out]
            failpoint("rescue.bringing")
    return rows, left_out
