"""Our slot on standbys: physical slots do not follow a promotion, so each standby keeps one of the same name."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg

from pgproof.errors import PreconditionError, TransientError
from pgproof.model.config import PostgresConfig
from pgproof.model.servers import listed_servers, place
from pgproof.model.wal_legs import Position
from pgproof.postgres.connection import connect, connect_replication, query
from pgproof.postgres.wal_slots import create_slot, drop_slot, read_slot
from pgproof.postgres.wal_stream import identify_system

# Never beyond what the standby has replayed: what it writes itself, promoted at this moment, lies behind that.
_ADVANCE = "SELECT pg_replication_slot_advance(%s, least(%s::pg_lsn, pg_last_wal_replay_lsn())) WHERE pg_is_in_recovery()"


def other_servers(config: PostgresConfig, connection: psycopg.Connection[Any]) -> tuple[PostgresConfig, ...]:
    """The servers of a list of hosts beside the one that a connection leads to."""
    known = connection.pgconn
    host, port = (known.host or known.hostaddr).decode(), known.port.decode()
    listed = listed_servers(config)
    return tuple(each for each in listed if place(each) != (host, port)) if len(listed) > 1 else ()


def keep_slot(
    config: PostgresConfig, slot: str, system_identifier: str, stored: Position | None, *, create: bool
) -> bool:
    """Move a standby's slot forward to what is stored, and make it where it is missing if `create` says so. Whether this
    is a standby at all.

    What is stored of another timeline than the standby's says nothing about what it has to keep. Raises
    PreconditionError for another cluster and for a slot that is missing, TransientError for one that cannot be moved.
    """
    with closing(connect_replication(config)) as connection:
        if connection.info.parameter_status("in_hot_standby") != "on":
            return False
        identity = identify_system(connection.pgconn)
        if identity.system_identifier != system_identifier:
            raise PreconditionError(
                "this host is another cluster", hint="take it off the list of hosts", server=place(config)
            )
        kept = read_slot(connection.pgconn, slot)
        if kept is None or kept.restart is None:
            if not create:
                raise PreconditionError(
                    "the standby has no such replication slot, or has given it up",
                    hint="add --create-slot, which also keeps it on the standbys",
                    slot=slot,
                )
            if kept is not None:
                drop_slot(connection.pgconn, slot)
            kept = create_slot(connection.pgconn, slot)
    if stored is None or stored.timeline != identity.timeline or kept.restart is None:
        return True
    if kept.restart < stored.lsn:
        with closing(connect(config)) as ordinary:
            try:
                query(ordinary, _ADVANCE, slot, str(stored.lsn))
            except PreconditionError as error:
                raise TransientError(
                    "the standby's slot cannot be moved forward",
                    hint="see the reason",
                    reason=error.context.get("reason", error.message),
                ) from error
    return True
