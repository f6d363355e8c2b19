"""Physical replication slots that outlive us: what keeps the WAL on the server until it is stored."""

from __future__ import annotations

import re
from dataclasses import dataclass

from psycopg import pq

from pgproof.errors import ConflictError, EngineError, PreconditionError, TransientError
from pgproof.model.lsn import Lsn
from pgproof.postgres.connection import command
from pgproof.postgres.wal_stream import SLOTS_EXHAUSTED, no_slots_allowed, show, slots_exhausted

_NAME = re.compile(r"[a-z0-9_]{1,63}\Z")
_DUPLICATE = "42710"


@dataclass(frozen=True, slots=True)
class Slot:
    """A physical slot; `restart` is None while it keeps nothing: it was never used, or the server has given it up."""

    name: str
    restart: Lsn | None
    timeline: int | None


def check_slot_name(name: str) -> None:
    """Raises PreconditionError for a name that PostgreSQL would not take; every other one needs no quotes."""
    if not _NAME.match(name):
        raise PreconditionError(
            "not a usable slot name",
            hint="use lower-case letters, digits and underscores, at most 63, such as 'pgproof'",
            slot=name,
        )


def read_slot(pgconn: pq.abc.PGconn, name: str) -> Slot | None:
    """The slot, or None if there is none. Raises PreconditionError if it is a logical one."""
    check_slot_name(name)
    (row,) = command(pgconn, f"READ_REPLICATION_SLOT {name}", f"reading replication slot {name}")
    if row.get("slot_type") is None:
        return None
    restart, timeline = row.get("restart_lsn"), row.get("restart_tli")
    return Slot(
        name,
        Lsn.parse(restart.decode()) if restart else None,
        int(timeline) if timeline else None,
    )


def create_slot(pgconn: pq.abc.PGconn, name: str) -> Slot:
    """Create a physical slot that reserves WAL at once.

    Raises PreconditionError if the server allows no slots, TransientError if all are in use.
    """
    check_slot_name(name)
    try:
        command(
            pgconn,
            f"CREATE_REPLICATION_SLOT {name} PHYSICAL RESERVE_WAL",
            f"creating replication slot {name}",
        )
    except EngineError as error:
        state = error.context.get("sqlstate")
        if state == _DUPLICATE:
            raise ConflictError(
                "somebody else created the slot at the same moment", hint="run this again", slot=name
            ) from error
        if int(show(pgconn, "max_replication_slots")) == 0:
            raise no_slots_allowed() from error
        if state == SLOTS_EXHAUSTED:
            raise slots_exhausted() from error
        raise
    made = read_slot(pgconn, name)
    if made is None:
        raise TransientError("a slot that was just made is gone", hint="run this again", slot=name)
    return made


def drop_slot(pgconn: pq.abc.PGconn, name: str) -> None:
    check_slot_name(name)
    command(pgconn, f"DROP_REPLICATION_SLOT {name}", f"dropping replication slot {name}")
