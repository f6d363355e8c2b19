"""Snapshots of databases that are held open, and the standby that stands still."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from pgproof.errors import PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import PostgresConfig
from pgproof.model.exact_point import Snapshot
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.postgres.connection import connect, query
from pgproof.postgres.stopping import sql_error

Connection = psycopg.Connection[Any]
_NAME = "pgproof_fingerprint"
_FLUSH_SECONDS = 30.0
_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class HeldSnapshots:
    """One connection for each database, in a transaction that sees its snapshot. What was committed until `start`
    was written before the first was taken, and all that any of them sees before `end`."""

    connections: tuple[Connection, ...]
    snapshots: tuple[Snapshot, ...]
    start: Lsn
    end: Lsn


@contextmanager
def held_snapshots(
    postgres: PostgresConfig, databases: Sequence[str], watcher: Connection
) -> Iterator[HeldSnapshots]:
    """Snapshots as near to each other as can be; `watcher` is another connection to the same server."""
    with ExitStack() as stack:
        try:
            connections = tuple(stack.enter_context(_reader(postgres, name)) for name in databases)
            start = insert_position(watcher)
            # The first query of a transaction takes its snapshot.
            taken = [
                connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
                for connection in connections
            ]
            end = insert_position(watcher)
        except psycopg.Error as error:
            raise sql_error(error, "a snapshot") from error
        snapshots = tuple(Snapshot.parse(row[0]) for row in taken if row is not None)
        failpoint("fingerprint.held")
        yield HeldSnapshots(connections, snapshots, start, end)


@contextmanager
def _reader(postgres: PostgresConfig, database: str) -> Iterator[Connection]:
    with connect(postgres, dbname=database, name=_NAME) as connection:
        # Not in the transaction: it waits for WAL to be archived, and its first query is to be the snapshot.
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        connection.execute("SET statement_timeout = 0")
        if connection.info.server_version >= 170000:
            connection.execute("SET transaction_timeout = 0")
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            yield connection


def insert_position(connection: Connection) -> Lsn:
    ((lsn,),) = query(connection, "SELECT pg_catalog.pg_current_wal_insert_lsn()::text")
    return Lsn.parse(lsn)


def finish_segment(connection: Connection) -> None:
    """Write a record, and end the WAL segment if the role may, so that it is archived."""
    # A segment in which nothing was written yet would not be ended.
    query(connection, "SELECT pg_catalog.pg_logical_emit_message(false, 'pgproof', '')::text")
    ((allowed,),) = query(
        connection, "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_switch_wal()', 'EXECUTE')"
    )
    if allowed:
        query(connection, "SELECT pg_catalog.pg_switch_wal()::text")


@contextmanager
def standing_still(connection: Connection, job: Job) -> Iterator[Lsn]:
    """A standby that replays nothing while the block lasts; yields the position up to which it has replayed.

    Raises PreconditionError where the role may not pause it.
    """
    ((paused_before,),) = query(connection, "SELECT pg_catalog.pg_is_wal_replay_paused()")
    if not paused_before:
        try:
            connection.execute("SELECT pg_catalog.pg_wal_replay_pause()")
        except psycopg.errors.InsufficientPrivilege as error:
            raise PreconditionError(
                "the role may not pause the standby",
                hint="GRANT EXECUTE ON FUNCTION pg_wal_replay_pause(), pg_wal_replay_resume() TO it",
            ) from error
    try:
        patience = time.monotonic() + _PAUSE_SECONDS
        while query(connection, "SELECT pg_catalog.pg_get_wal_replay_pause_state()") != [("paused",)]:
            job.checkpoint()
            if time.monotonic() > patience:
                raise TransientError("the standby does not pause", hint="run it again")
            time.sleep(0.05)
        ((lsn,),) = query(connection, "SELECT pg_catalog.pg_last_wal_replay_lsn()::text")
        yield Lsn.parse(lsn)
    finally:
        if not paused_before:
            query(connection, "SELECT pg_catalog.pg_wal_replay_resume()::text")


def committed_of(connection: Connection, xids: Sequence[int]) -> list[int]:
    """Those of these transactions that are committed here."""
    found = query(
        connection,
        """
        SELECT x FROM unnest(%s::text[]) AS x
        WHERE CASE WHEN x::xid8 < pg_snapshot_xmax(pg_current_snapshot()) THEN pg_xact_status(x::xid8) END = 'committed'
        """,
        [str(xid) for xid in xids],
    )
    return [int(row[0]) for row in found]
