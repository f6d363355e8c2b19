"""What a server says of its WAL, our slot and our streamer, over an ordinary connection."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgproof.errors import EngineError
from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.model.wal_status import SlotStatus
from pgproof.postgres.connection import connect, query
from pgproof.postgres.facts import refuse_too_old

# As JSON, because versions differ in the columns they have.
_SLOT = "SELECT to_jsonb(s) FROM pg_replication_slots s WHERE slot_name = %s"
_SENDER = (
    "SELECT to_jsonb(r) || jsonb_build_object('lag', extract(epoch FROM flush_lag)) "
    "FROM pg_stat_replication r WHERE pid = %s"
)
_POSITION = (
    "SELECT pg_is_in_recovery(), (CASE WHEN pg_is_in_recovery() "
    "THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn() END)::text"
)


@dataclass(frozen=True, slots=True)
class WalHealth:
    version: str
    position: Lsn
    in_recovery: bool
    slot: SlotStatus | None
    sync_state: str | None
    flush_lag: float | None
    free_bytes: int | None
    full_page_writes: bool


def read_wal_health(config: PostgresConfig, slot: str) -> WalHealth:
    """Raises the connection's errors, PreconditionError for a server that is too old."""
    with closing(connect(config)) as connection:
        number = connection.info.server_version
        version = connection.info.parameter_status("server_version") or ""
        refuse_too_old(number, version)
        rows = query(connection, _POSITION)
        in_recovery, position = bool(rows[0][0]), Lsn.parse(str(rows[0][1] or "0/0"))
        found: dict[str, Any] | None = next((row[0] for row in query(connection, _SLOT, slot)), None)
        sender: dict[str, Any] = {}
        if found is not None and found.get("active_pid"):
            sender = next((row[0] for row in query(connection, _SENDER, found["active_pid"])), {})
        lag = sender.get("lag")
        return WalHealth(
            version=version.split()[0],
            position=position,
            in_recovery=in_recovery,
            slot=None if found is None else slot_status(found, position),
            sync_state=sender.get("sync_state"),
            flush_lag=None if lag is None else float(lag),
            free_bytes=_free_bytes(connection, config),
            full_page_writes=query(connection, "SHOW full_page_writes")[0][0] == "on",
        )


def slot_status(found: Mapping[str, Any], position: Lsn) -> SlotStatus:
    """A row of pg_replication_slots, on a server whose WAL ends at `position`."""
    restart = Lsn.parse(found["restart_lsn"]) if found.get("restart_lsn") else None
    return SlotStatus(
        name=str(found["slot_name"]),
        active=bool(found.get("active")),
        restart=restart,
        wal_status=found.get("wal_status"),
        safe_bytes=found.get("safe_wal_size"),
        retained_bytes=None if restart is None else max(0, position - restart),
        inactive_since=found.get("inactive_since"),
        invalidation_reason=found.get("invalidation_reason"),
    )


def _free_bytes(connection: psycopg.Connection[Any], config: PostgresConfig) -> int | None:
    """The free space where pg_wal lies, if the server is on this machine and lets us see; else None."""
    if config.host is not None and not config.host.startswith("/"):
        return None
    try:
        data_directory = query(connection, "SELECT current_setting('data_directory')")[0][0]
        space = os.statvfs(Path(data_directory) / "pg_wal")
    except (EngineError, OSError):
        return None  # the role or the user may not know; then it can be told
    return space.f_bavail * space.f_frsize
