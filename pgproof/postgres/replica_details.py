"""What a node tells of its replication beside what it is: slots, senders, receiver, conflicts, settings.

Slots and most settings are seen by everybody. Who streams, and from where, only by a role in pg_monitor: without it that is
named as hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgproof.model.lsn import Lsn
from pgproof.model.replica_status import NodeDetails, Sender
from pgproof.postgres.connection import server_error
from pgproof.postgres.cutting import answer_within
from pgproof.postgres.wal_health import slot_status

SETTINGS: Final = (
    "hot_standby",
    "hot_standby_feedback",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_standby_streaming_delay",
    "max_wal_senders",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_keep_size",
)

# As JSON, because versions differ in the columns they have. primary_conninfo may hold a password, so it is not read.
DETAILS_QUERY: Final[LiteralString] = """
SELECT jsonb_build_object(
    'position', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
    'sees_activity', pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
    'slots', (SELECT jsonb_agg(to_jsonb(s)) FROM pg_replication_slots s WHERE slot_type = 'physical'),
    'senders', (SELECT jsonb_agg(to_jsonb(r) || jsonb_build_object(
                    'flush_seconds', extract(epoch FROM flush_lag), 'replay_seconds', extract(epoch FROM replay_lag)))
                  FROM pg_stat_replication r),
    'receiver', (SELECT to_jsonb(w) FROM pg_stat_wal_receiver w WHERE pid IS NOT NULL),
    'configured', (SELECT setting <> '' FROM pg_settings WHERE name = 'primary_conninfo'),
    'conflicts', (SELECT sum(confl_tablespace + confl_lock + confl_snapshot + confl_bufferpin + confl_deadlock)
                    FROM pg_stat_database_conflicts),
    'settings', (SELECT jsonb_object_agg(name, current_setting(name)) FROM pg_settings WHERE name = ANY(%s)))
"""


async def read_details(connection: psycopg.AsyncConnection[Any], seconds: float) -> NodeDetails:
    """Ask over a connection that is there. Raises TransientError, and has cut it, if no answer comes within `seconds`."""

    async def ask() -> dict[str, Any]:
        cursor = connection.cursor(row_factory=psycopg.rows.tuple_row)
        row = await (await cursor.execute(DETAILS_QUERY, [list(SETTINGS)])).fetchone()
        assert row is not None
        found: dict[str, Any] = row[0]
        return found

    try:
        return _details(await answer_within(seconds, connection, ask()))
    except psycopg.Error as error:
        raise server_error(
            error.sqlstate, str(error).splitlines()[0], "the question how it replicates"
        ) from error


def _details(found: Mapping[str, Any]) -> NodeDetails:
    position = _lsn(found["position"])
    slots = found["slots"] or []
    receiver = found["receiver"]
    seen = found["sees_activity"]
    settings = dict(found["settings"] or {})
    hidden = []
    if not seen:
        hidden += ["who streams from it"] if found["senders"] else []
        hidden += ["where it streams from"] if receiver else []
    by_pid = {slot["active_pid"]: slot["slot_name"] for slot in slots if slot.get("active_pid")}
    return NodeDetails(
        position=position,
        slots=tuple(slot_status(slot, position or Lsn(0)) for slot in slots),
        senders=tuple(_sender(each, by_pid) for each in found["senders"] or []),
        receiving=receiver is not None,
        configured=found["configured"],
        slot_name=settings.get("primary_slot_name", ""),
        application=_application(receiver) if seen and receiver else None,
        upstream=_upstream(receiver) if seen and receiver else None,
        conflicts=None if found["conflicts"] is None else int(found["conflicts"]),
        settings=settings,
        hidden=tuple(hidden),
    )


def _sender(found: Mapping[str, Any], slots: Mapping[int, str]) -> Sender:
    return Sender(
        pid=found["pid"],
        application=found.get("application_name") or "",
        state=found.get("state"),
        sync_state=found.get("sync_state"),
        sent=_lsn(found.get("sent_lsn")),
        flushed=_lsn(found.get("flush_lsn")),
        replayed=_lsn(found.get("replay_lsn")),
        flush_lag=found["flush_seconds"],
        replay_lag=found["replay_seconds"],
        slot=slots.get(found["pid"]),
    )


def _application(receiver: Mapping[str, Any]) -> str | None:
    """The name that it gives itself at its primary."""
    try:
        given = conninfo_to_dict(receiver.get("conninfo") or "")
    except psycopg.ProgrammingError:
        return None
    name = given.get("application_name") or given.get("fallback_application_name")
    return None if name is None else str(name)


def _upstream(receiver: Mapping[str, Any]) -> str | None:
    host, port = receiver.get("sender_host"), receiver.get("sender_port")
    return None if not host else f"{host}:{port}"


def _lsn(text: str | None) -> Lsn | None:
    return None if text is None else Lsn.parse(text)
