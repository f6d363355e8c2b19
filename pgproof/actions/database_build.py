"""Build a database beside the others, fill it, prove it, and only then give it its name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import sql

from pgproof.errors import ConflictError, DataError, EngineError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.database_properties import DatabaseProperties, dated_name
from pgproof.model.database_restore import BuildOptions
from pgproof.model.fingerprints import FingerprintComparison, compare_databases
from pgproof.model.job import Job
from pgproof.model.report import Finding
from pgproof.postgres.connection import connect, query
from pgproof.postgres.database_building import Building, Connection
from pgproof.postgres.database_copying import DatabaseCopier, Snapshot
from pgproof.postgres.database_needs import read_needs, refuse_unmet
from pgproof.postgres.database_properties import known_settings, read_properties
from pgproof.postgres.database_sessions import disconnecting, refuse_in_use, refuse_prepared
from pgproof.postgres.fingerprints import compare_connections, fingerprint_database, partition_roots
from pgproof.postgres.masking import run_mask
from pgproof.postgres.pg_dump import RestoreOptions
from pgproof.postgres.programs import Programs, find_clients
from pgproof.postgres.stopping import sql_error, stopping


@dataclass(frozen=True, slots=True)
class Filled:
    """What is known of a database after it was filled."""

    findings: list[Finding]
    comparison: FingerprintComparison | None = None


def temporary_place(config: BackupConfig) -> Path:
    return Path(config.scratch_dir or tempfile.gettempdir())


def clients_for(source_major: int, target_major: int, config: BackupConfig) -> Programs:
    """pg_dump and pg_restore that know both servers. Raises PreconditionError for a target that is older."""
    if target_major < source_major:
        raise PreconditionError(
            f"a database of PostgreSQL {source_major} cannot be brought into a server of PostgreSQL {target_major}",
            hint=f"name a server of PostgreSQL {source_major} or later",
        )
    # The directory that is configured is that of the programs of the backup's server.
    return find_clients(target_major, config.bin_dir if target_major == source_major else None)


def restore_options(options: BuildOptions) -> RestoreOptions:
    return RestoreOptions(
        owners=options.owners,
        privileges=options.privileges,
        tablespaces=options.tablespaces,
        subscriptions=options.subscriptions,
    )


def major_of(connection: Connection) -> int:
    return connection.info.server_version // 10000


def fitting(
    work: Building, properties: DatabaseProperties, options: BuildOptions
) -> tuple[DatabaseProperties, list[str]]:
    """What the server of `work` can give of these properties, and notes on what it cannot."""
    properties = properties.without(
        owners=not options.owners, privileges=not options.privileges, tablespaces=not options.tablespaces
    )
    properties, lost = properties.only_settings(known_settings(work.connection))
    return properties, [f"the setting {name} is unknown to this server and was left out" for name in lost]


def refuse_new(work: Building) -> None:
    """Raise PreconditionError if there is a database of the new name."""
    if read_properties(work.connection, work.target) is not None:
        raise PreconditionError(
            "a database of this name exists already",
            hint="drop it first, or give the copy another name",
            database=work.target,
        )


def refuse_occupied(work: Building, *, disconnect: bool) -> None:
    """Raise what would stop the swap in the end. Raises ConflictError, PreconditionError."""
    refuse_prepared(work.connection, work.target)
    if not disconnect:
        refuse_in_use(work.connection, work.target, "the swap")


def refuse_slots(work: Building) -> None:
    slots = query(
        work.connection, "SELECT slot_name::text FROM pg_replication_slots WHERE database = %s", work.target
    )
    if slots:
        raise PreconditionError(
            "the old database has replication slots, so it cannot be dropped",
            hint="leave out --drop-old, and drop it when the slots are gone",
            slots=", ".join(row[0] for row in slots),
        )


def subscription_notes(source: Connection, *, kept: bool) -> list[str]:
    """What is to be said of the subscriptions of the connected database."""
    count = query(
        source,
        "SELECT count(*) FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )[0][0]
    if not count:
        return []
    if kept:
        return [
            f"{count} subscriptions are disabled in the new database: enable them when the old one is gone"
        ]
    return [f"{count} subscriptions of the source were left out, so that nothing starts to replicate"]


def fill_from_server(
    work: Building,
    source: PostgresConfig,
    snapshot: Snapshot,
    target: PostgresConfig,
    properties: DatabaseProperties,
    programs: Programs,
    config: BackupConfig,
    options: BuildOptions,
    job: Job,
) -> Filled:
    """Create the database and copy the snapshot into it, compare the two, and let the planner know it."""
    needs = read_needs(snapshot.connection, owners=options.owners, privileges=options.privileges)
    refuse_unmet(work.connection, needs if options.tablespaces else needs.without_tablespaces(), properties)
    work.create(properties)
    copier = DatabaseCopier(
        programs, source, snapshot, target, temporary_place(config), restore_options(options), job
    )
    size = int(query(snapshot.connection, "SELECT pg_database_size(current_database())")[0][0])
    findings = copier.copy_into(work.name, options.jobs, measuring(work, size, job))
    return Filled(findings, compare_with(work, snapshot, target, copier.via_root, job))


def measuring(work: Building, size: int, job: Job) -> Callable[[], None]:
    """Tells how far it is by the growth of the new database."""

    def measure() -> None:
        done = int(query(work.connection, "SELECT pg_database_size(%s)", work.name)[0][0])
        job.report(f"filling {work.target}", done, max(done, size))

    return measure


def compare_with(
    work: Building, snapshot: Snapshot, target: PostgresConfig, via_root: bool, job: Job
) -> FingerprintComparison:
    """Raises DataError if a table is not the same on both sides."""
    job.report("comparing")
    with closing(connect(target, dbname=work.name)) as copy:
        if via_root:
            # Rows may lie in other partitions than before: only the whole can be the same.
            roots = partition_roots(snapshot.connection)
            ours = fingerprint_database(snapshot.connection, job, rates={})
            theirs = fingerprint_database(copy, job, rates={})
            found = compare_databases(ours.by_roots(roots), theirs.by_roots(roots))
        else:
            found = compare_connections(snapshot.connection, copy, job)
    if not found.same:
        raise DataError(
            "the new database is not the same as its source",
            hint="please report this; nothing was replaced",
            differences="; ".join(map(str, found.differences[:5])),
        )
    failpoint("database.compared")
    return found


def mask(
    work: Building, target: PostgresConfig, programs: Programs, config: BackupConfig, file: Path, job: Job
) -> None:
    job.report("masking")
    failpoint("database.masking")
    run_mask(programs, target, work.name, file, temporary_place(config), job)
    failpoint("database.masked")


def analyze(work: Building, target: PostgresConfig, job: Job) -> None:
    """Behind the masking: what the planner knows of columns are values from them."""
    job.report("analyzing")
    with closing(connect(target, dbname=work.name)) as connection, stopping(job, "ANALYZE", connection):
        connection.execute("SET statement_timeout = 0")
        connection.execute("ANALYZE")
    failpoint("database.analyzed")


def give_name(work: Building, properties: DatabaseProperties) -> None:
    """Call it what it will be called where nothing is called so. Raises EngineError."""
    try:
        work.finish(properties, work.target)
    except psycopg.Error as error:
        raise sql_error(error, "naming the new database") from error


def swap(
    work: Building,
    postgres: PostgresConfig,
    properties: DatabaseProperties,
    *,
    disconnect: bool,
    now: datetime,
) -> str:
    """Put the new database in the place of the old one, and return what that one is called now.

    If somebody came in and may not be put out, the new one is kept under a name of its own: ConflictError tells it.
    """
    old = _free_name(work, "before", now)
    try:
        if disconnect:
            with disconnecting(postgres, work.target):
                work.finish(properties, work.target, old)
        else:
            work.finish(properties, work.target, old)
    except psycopg.errors.ObjectInUse as error:
        raise _kept_aside(work, properties, error, now) from error
    except psycopg.Error as error:
        raise sql_error(error, "putting the new database in its place") from error
    return old


def drop_replaced(work: Building, old: str, *, disconnect: bool) -> None:
    failpoint("database.dropping")
    force = sql.SQL(" WITH (FORCE)" if disconnect else "")
    try:
        work.connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(old)) + force)
    except psycopg.Error as error:
        reason = sql_error(error, f"the restore is complete, but dropping the old database {old}")
        raise reason from error


def _kept_aside(
    work: Building, properties: DatabaseProperties, error: psycopg.Error, now: datetime
) -> EngineError:
    name = _free_name(work, "restored", now)
    try:
        work.finish(properties, name)
    except psycopg.Error as second:
        return sql_error(second, "keeping the new database aside")
    return ConflictError(
        "the database is in use, so the new one could not take its place",
        hint=f"it is complete, and kept as {name}: rename the two yourself, or drop it and run this again with --disconnect",
        database=work.target,
        reason=error.diag.message_detail or str(error).splitlines()[0],
    )


def _free_name(work: Building, word: str, now: datetime) -> str:
    moment = now.astimezone(UTC)
    while read_properties(work.connection, name := dated_name(work.target, word, moment)) is not None:
        moment += timedelta(seconds=1)
    return name
