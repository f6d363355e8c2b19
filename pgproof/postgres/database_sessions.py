"""Who is connected to a database, and how they are made to leave while something needs it alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.postgres.connection import query
from pgproof.postgres.database_building import connect_maintenance

Connection = psycopg.Connection[Any]
_EVERY = 0.05
_PATIENCE = 1.0
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Session:
    pid: int
    user: str
    application: str
    address: str

    def __str__(self) -> str:
        application = f" ({self.application})" if self.application else ""
        return f"{self.user or 'a background process'}{application} from {self.address or 'this host'}, process {self.pid}"


def sessions(connection: Connection, database: str) -> list[Session]:
    """All but autovacuum, which gives way by itself."""
    rows = query(
        connection,
        """
        SELECT pid, coalesce(usename::text, ''), application_name, coalesce(client_addr::text, '')
        FROM pg_stat_activity
        WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker' ORDER BY backend_start
        """,
        database,
    )
    return [Session(*row) for row in rows]


def refuse_in_use(connection: Connection, database: str, what: str) -> None:
    """Raise ConflictError that names who is connected, if anybody is."""
    patience = time.monotonic() + _PATIENCE
    while (found := sessions(connection, database)) and time.monotonic() < patience:
        time.sleep(_EVERY)  # those that have hung up, one of ours among them, leave in a moment
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise ConflictError(
            f"the database is in use, and {what} needs it alone",
            hint="let these leave, or end their connections with --disconnect",
            database=database,
            connected="; ".join(map(str, found[:_NAMED])) + more,
        )


def refuse_prepared(connection: Connection, database: str) -> None:
    """Raise PreconditionError if transactions are prepared there: they hold the database."""
    found = query(connection, "SELECT gid::text FROM pg_prepared_xacts WHERE database = %s", database)
    if found:
        raise PreconditionError(
            "the database has prepared transactions",
            hint="commit or roll them back first: COMMIT PREPARED '…'",
            database=database,
            transactions=", ".join(row[0] for row in found[:_NAMED]),
        )


@contextmanager
def disconnecting(postgres: PostgresConfig, database: str) -> Iterator[None]:
    """End all connections to `database` as long as the block lasts.

    The block runs the command that needs the database alone: it locks the door first and then waits for those inside
    (five seconds, PostgreSQL's CountOtherDBBackends), so nobody can come in again between.
    """
    done = threading.Event()
    failures: list[psycopg.Error] = []

    def end_them() -> None:
        with closing(connect_maintenance(postgres)) as connection:
            while not done.wait(_EVERY):
                try:
                    connection.execute(
                        """
                        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'
                        """,
                        [database],
                    )
                except psycopg.Error as error:
                    failures.append(error)
                    return

    thread = threading.Thread(target=end_them, name="pgproof-disconnect", daemon=True)
    thread.start()
    try:
        yield
    except psycopg.errors.ObjectInUse as error:
        done.set()
        thread.join()
        if failures:
            raise PreconditionError(
                "the role may not end the connections of others",
                hint="connect as a superuser, or let them leave by themselves",
                database=database,
                reason=str(failures[0]).splitlines()[0],
            ) from error
        raise
    finally:
        done.set()
        thread.join()
