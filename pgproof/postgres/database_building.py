"""A database that is built beside the others, under a name of its own until it is complete.

It is called `pgproof_new_<8 hex>`, and its comment says what it will be. The run that builds it holds an advisory lock with
that number on the maintenance database: one whose lock is free belongs to a dead run, and the next run drops it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from pgproof.errors import ConflictError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import PostgresConfig
from pgproof.model.database_properties import DatabaseProperties, new_name, run_of
from pgproof.model.job import Job
from pgproof.postgres.connection import connect, query
from pgproof.postgres.database_properties import create_copy, create_empty, give_properties, keep_others_out
from pgproof.postgres.stopping import sql_error, stopping

Connection = psycopg.Connection[Any]
# Two spaces of advisory locks, of runs and of the names that they will take: "pgpr" and "pgpt".
_RUNS, _TARGETS = 0x70677072, 0x70677074
_PATIENCE = 2.0
_NO_TIMEOUTS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)
# They belong to the server and are connected to while others are built.
RESERVED = frozenset({"postgres", "template0", "template1"})


class Building:
    """A run on a server that may build one database; made by `building`.

    `connection` is to the maintenance database and holds the locks: without it nothing can be finished.
    """

    def __init__(self, connection: Connection, run: int, target: str, job: Job) -> None:
        self.connection = connection
        self.target = target
        self.name = new_name(run)
        self._job = job
        self._made = False

    def create(self, properties: DatabaseProperties) -> None:
        """The empty database. What cannot be given to it in the end is told now. Raises EngineError."""
        with self._sql("creating the database"):
            self._made = True
            create_empty(self.connection, self.name, properties)
        self._created(properties)

    def copy(self, source: str, properties: DatabaseProperties) -> None:
        """A copy of `source` file by file. Raises EngineError."""
        with self._sql("copying the database"):
            self._made = True
            create_copy(self.connection, self.name, source, properties)
        self._created(properties)

    def _created(self, properties: DatabaseProperties) -> None:
        failpoint("database.created")
        with self._sql("creating the database"), self.connection.transaction():
            self.connection.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                    sql.Identifier(self.name),
                    sql.Literal(f"pgproof builds this database, which will be {self.target}; leave it alone"),
                )
            )
            keep_others_out(self.connection, self.name, properties)
        failpoint("database.marked")
        with (
            self._sql("giving the database its properties"),
            self.connection.transaction(force_rollback=True),
        ):
            give_properties(self.connection, self.name, properties)

    def finish(self, properties: DatabaseProperties, name: str, old: str | None = None) -> None:
        """In one transaction the database gets its properties and is called `name`; what is called so becomes `old`.

        Raises psycopg.Error; then nothing has happened.
        """
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        with self.connection.transaction():
            give_properties(self.connection, self.name, properties)
            if old is not None:
                # First of all nobody may come in any more; whoever tries waits for us, and finds another database.
                self.connection.execute(rename.format(sql.Identifier(name), sql.Identifier(old)))
                failpoint("database.renamed")
            self.connection.execute(rename.format(sql.Identifier(self.name), sql.Identifier(name)))
            failpoint("database.finishing")
        self._made = False
        failpoint("database.finished")

    def drop(self) -> None:
        """Remove what was built; nothing happens if there is nothing, or it was finished."""
        if self._made and not self.connection.closed:
            self.connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.name))
            )
            self._made = False

    @contextlib.contextmanager
    def _sql(self, what: str) -> Iterator[None]:
        with stopping(self._job, what, self.connection):
            yield


def refuse_name(target: str) -> None:
    """Raise PreconditionError for a name that no database can be built for."""
    if target in RESERVED or run_of(target) is not None:
        raise PreconditionError(
            "this database belongs to the server, or is being built, and cannot be replaced",
            hint="restore it under another name: --target NAME",
            database=target,
        )
    if not target or "\0" in target or len(target.encode()) > 63:
        raise PreconditionError("not a name of a database", hint="give 1 to 63 bytes", database=target)


@contextlib.contextmanager
def building(postgres: PostgresConfig, target: str, job: Job) -> Iterator[Building]:
    """The right to build the database that will be called `target`; leaving the block drops what is not finished.

    First what dead runs left is dropped. Raises PreconditionError for a name that cannot be had, ConflictError while
    another run builds the same.
    """
    refuse_name(target)
    run = secrets.randbits(31)
    with contextlib.closing(connect_maintenance(postgres)) as connection:
        (recovering,) = query(connection, "SELECT pg_is_in_recovery()")[0]
        if recovering:
            raise PreconditionError(
                "this server is a standby, and takes no database", hint="connect to its primary"
            )
        for name in _NO_TIMEOUTS:
            query(connection, "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = %s", name)
        if not _lock(connection, _RUNS, run) or not _lock_target(connection, target, job):
            raise ConflictError(
                "another run is building this database",
                hint="wait until it has ended, or stop it",
                database=target,
            )
        drop_abandoned(connection, target)
        failpoint("database.locked")
        work = Building(connection, run, target, job)
        try:
            yield work
        except BaseException:
            # What went wrong first is what counts; the next run drops what cannot be dropped now.
            with contextlib.suppress(psycopg.Error):
                work.drop()
            raise
        work.drop()


def connect_maintenance(postgres: PostgresConfig) -> Connection:
    """To the database where all runs meet. Raises the errors of `connect`."""
    return connect(postgres, dbname="postgres", name="pgproof_build")


def drop_abandoned(connection: Connection, target: str) -> None:
    """Drop what dead runs were building, and what was left of a former `target` that somebody began to drop."""
    rows = query(
        connection,
        """
        SELECT datname::text, datconnlimit = -2 OR NOT datallowconn,
               coalesce(shobj_description(oid, 'pg_database'), '') LIKE 'pgproof builds this database%%'
        FROM pg_database WHERE pg_has_role(datdba, 'USAGE') ORDER BY 1
        """,
    )
    former = re.compile(re.escape(target) + r"_before_[0-9]{14}\Z")
    for name, closed, marked in rows:
        run = run_of(name)
        if run is not None and (closed or marked):
            if _lock(connection, _RUNS, run):
                _drop(connection, name)
                query(connection, "SELECT pg_advisory_unlock(%s, %s)", _RUNS, run)
        elif former.match(name) and query(
            connection, "SELECT FROM pg_database WHERE datname = %s AND datconnlimit = -2", name
        ):
            _drop(connection, name)


def _drop(connection: Connection, name: str) -> None:
    try:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise sql_error(
            error, f"dropping {name}, which a run that ended before it was finished left"
        ) from error


def _lock_target(connection: Connection, target: str, job: Job) -> bool:
    """The session of a run that was killed a moment ago may still end."""
    number = int(query(connection, "SELECT hashtext(%s)", target)[0][0])
    patience = time.monotonic() + _PATIENCE
    while not _lock(connection, _TARGETS, number):
        if time.monotonic() > patience:
            return False
        job.checkpoint()
        time.sleep(0.1)
    return True


def _lock(connection: Connection, space: int, number: int) -> bool:
    return bool(query(connection, "SELECT pg_try_advisory_lock(%s, %s)", space, number)[0][0])
