"""What a rebuild asks the primary: its way through the timelines, its WAL, slots and rights, and whether a replica streams."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg

from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.node import NodeState
from pgproof.model.rebuild_evidence import Primary
from pgproof.model.timelines import TimelineHistory
from pgproof.postgres.connection import connect, connect_replication, query
from pgproof.postgres.refusals import sql_name
from pgproof.postgres.standby import SECRETS
from pgproof.postgres.wal_slots import create_slot, drop_slot
from pgproof.postgres.wal_stream import timeline_history

# PostgreSQL documentation, pg_rewind: what its role must be allowed to execute.
_OF_REWIND = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)

_RELEASE_SECONDS = 10.0


def ask_primary(config: PostgresConfig, state: NodeState) -> tuple[Primary, bytes]:
    """The primary as a value, and its history file, empty on timeline 1.

    Raises PreconditionError if our role may not see who streams: nothing could be verified.
    """
    with closing(connect_replication(config)) as connection:
        history = timeline_history(connection.pgconn, state.timeline)
    with closing(connect(config)) as connection:
        _require_monitor(connection)
        oldest = query(
            connection, "SELECT min(substr(name, 9)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"
        )
        (spaces,) = query(
            connection,
            "SELECT count(*)::int FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')",
        )
        obstacles = (*_cannot_log_in(config), *_cannot_rewind(connection))
    name = oldest[0][0]
    begin = WalSegment.parse(f"{1:08X}{name}", state.segment_size).start if name else None
    primary = Primary(
        state.node,
        state,
        TimelineHistory.parse(state.timeline, history),
        begin,
        obstacles,
        spaces[0],
    )
    return primary, history


def _require_monitor(connection: psycopg.Connection[Any]) -> None:
    ((allowed, role),) = query(
        connection, "SELECT pg_has_role(current_user, 'pg_monitor', 'USAGE'), current_user::text"
    )
    if not allowed:
        raise PreconditionError(
            "the role may not see on the primary who streams, and which WAL is there",
            hint=f"run there as a superuser:  GRANT pg_monitor TO {sql_name(role)}",
            role=role,
        )


def _cannot_log_in(config: PostgresConfig) -> tuple[str, ...]:
    """Of secrets, only a password and its file can be handed to pg_rewind by its environment."""
    if any(config.parameters().get(name) for name in SECRETS if name != "password"):
        return ("pg_rewind cannot be given the password of a TLS key, nor a client secret of OAuth",)
    return ()


def _cannot_rewind(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    found = []
    ((role, full_pages),) = query(
        connection, "SELECT current_user::text, current_setting('full_page_writes') = 'on'"
    )
    lacking = [
        function
        for function in _OF_REWIND
        for ((allowed,),) in [
            query(connection, "SELECT has_function_privilege(%s, 'EXECUTE')", f"pg_catalog.{function}")
        ]
        if not allowed
    ]
    if lacking:
        grants = "; ".join(
            f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {sql_name(role)}" for function in lacking
        )
        found.append(f"the role {role} may not read the primary's files ({grants})")
    if not full_pages:
        found.append("full_page_writes is off on the primary")
    if not lacking:
        # pg_rewind would read it as a file, and give up in the middle.
        rows = query(
            connection, "SELECT 1 FROM pg_ls_dir('pg_wal/pgproof', true, false) AS name WHERE name = 'socket'"
        )
        if rows:
            found.append(
                "pgproof archives or fetches WAL on the primary, and pg_rewind cannot pass its socket"
            )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Streaming:
    """What the primary says of who uses a slot. `state` is empty while nobody does."""

    state: str = ""
    address: str = ""
    flushed: Lsn | None = None
    replayed: Lsn | None = None

    @property
    def streams(self) -> bool:
        return self.state == "streaming"


_SLOT = """
SELECT s.slot_type, s.active, coalesce(s.wal_status, ''), coalesce(r.state, ''),
       coalesce(host(r.client_addr), 'a local socket'), r.flush_lsn::text, r.replay_lsn::text, s.restart_lsn IS NULL
  FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
 WHERE s.slot_name = %s
"""


def who_streams(connection: psycopg.Connection[Any], slot: str) -> Streaming:
    rows = query(connection, _SLOT, slot)
    if not rows:
        return Streaming()
    _type, _active, _status, state, address, flushed, replayed, _empty = rows[0]
    return Streaming(
        state,
        address,
        Lsn.parse(flushed) if flushed else None,
        Lsn.parse(replayed) if replayed else None,
    )


def provide_slot(config: PostgresConfig, slot: str) -> bool:
    """Make the slot, or take an unused one of this name that still keeps its WAL. Whether it was made now.

    Raises ConflictError if somebody uses it, PreconditionError if it is a logical one.
    """
    with closing(connect(config)) as connection:
        rows = query(connection, _SLOT, slot)
        deadline = time.monotonic() + _RELEASE_SECONDS
        while rows and rows[0][1] and time.monotonic() < deadline:
            # The replica's own, which has just ended?
            time.sleep(0.2)
            rows = query(connection, _SLOT, slot)
    with closing(connect_replication(config)) as connection:
        if rows:
            kind, active, status, _state, address, _flushed, _replayed, empty = rows[0]
            if kind != "physical":
                raise PreconditionError(
                    "the slot of this name is a logical one", hint="choose another with --slot", slot=slot
                )
            if active:
                raise ConflictError(
                    "somebody else uses the slot of this name",
                    hint="choose another with --slot, or stop that one",
                    slot=slot,
                    by=address,
                )
            if status != "lost" and not empty:
                return False
            # It keeps nothing any more.
            drop_slot(connection.pgconn, slot)
        create_slot(connection.pgconn, slot)
        return True


def refuse_used_slot(config: PostgresConfig, slot: str) -> None:
    """Raises as `provide_slot` would."""
    with closing(connect(config)) as connection:
        rows = query(connection, _SLOT, slot)
    if rows and rows[0][1]:
        raise ConflictError(
            "somebody else uses the slot of this name",
            hint="choose another with --slot, or stop that one",
            slot=slot,
            by=rows[0][4],
        )


def current_position(config: PostgresConfig) -> Lsn:
    """Where the primary has flushed to now: what a replica can be sent."""
    with closing(connect(config)) as connection:
        return Lsn.parse(query(connection, "SELECT pg_current_wal_flush_lsn()::text")[0][0])
