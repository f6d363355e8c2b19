"""The one statement that asks a node what it is, and its answer as a value.

It needs no rights beyond connecting. A role in pg_monitor sees a standby's timeline as it is received; without that it is known
from the last restartpoint only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final, LiteralString

import psycopg

from pgproof.errors import EngineError, TransientError
from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.postgres.connection import connect_within, server_error
from pgproof.postgres.cutting import answer_within

# Functions of the other role raise errors, so each is asked for in its branch only.
NODE_QUERY: Final[LiteralString] = """
SELECT recovering,
       (SELECT system_identifier FROM pg_control_system()),
       CASE WHEN recovering
            THEN greatest((SELECT received_tli FROM pg_stat_wal_receiver),
                          (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                          (SELECT timeline_id FROM pg_control_checkpoint()))
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
       current_setting('server_version_num')::int,
       (SELECT setting::int FROM pg_settings WHERE name = 'wal_segment_size'),
       CASE WHEN recovering THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END::text,
       pg_last_wal_replay_lsn()::text,
       CASE WHEN recovering THEN pg_is_wal_replay_paused() ELSE false END,
       CASE WHEN recovering
            THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END,
       CASE WHEN recovering THEN coalesce((SELECT status FROM pg_stat_wal_receiver), '') ELSE '' END,
       (SELECT setting::float8 / 1000 FROM pg_settings WHERE name = 'recovery_min_apply_delay'),
       current_setting('transaction_read_only') = 'on' AND NOT recovering
  FROM (SELECT pg_is_in_recovery() AS recovering) AS role
"""


def node_state(node: str, row: Sequence[Any], at: datetime, seconds: float) -> NodeState:
    """The value of NODE_QUERY's one row, asked for `at` a moment and answered after `seconds`."""
    (
        recovering,
        system,
        timeline,
        version,
        segment,
        position,
        replayed,
        paused,
        age,
        receiver,
        delay,
        read_only,
    ) = row
    return NodeState(
        node=node,
        at=at,
        in_recovery=recovering,
        system_identifier=system,
        timeline=timeline,
        version=version,
        segment_size=segment,
        position=None if position is None else Lsn.parse(position),
        replayed=None if replayed is None else Lsn.parse(replayed),
        replay_paused=paused,
        replayed_age=age,
        receiver=receiver,
        apply_delay=delay,
        read_only=read_only,
        seconds=seconds,
    )


async def ask_node(node: str, connection: psycopg.AsyncConnection[Any], seconds: float) -> NodeState:
    """Ask over a connection that is there. Raises TransientError, and has cut it, if no answer comes within `seconds`."""
    at, begun = datetime.now(UTC), perf_counter()

    async def ask() -> Sequence[Any]:
        cursor = connection.cursor(row_factory=psycopg.rows.tuple_row)
        row = await (await cursor.execute(NODE_QUERY)).fetchone()
        assert row is not None
        return row

    try:
        row = await answer_within(seconds, connection, ask())
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        # It left recovery between two of the functions.
        raise TransientError(
            "the node is being promoted",
            hint="ask again",
            reason=str(error).splitlines()[0],
            sqlstate=error.sqlstate,
        ) from error
    except psycopg.Error as error:
        raise server_error(error.sqlstate, str(error).splitlines()[0], "the question what it is") from error
    return node_state(node, row, at, perf_counter() - begun)


async def look_at_node(node: str, server: PostgresConfig, seconds: float) -> NodeState:
    """Connect and ask, all within `seconds`. Raises the engine's errors for a node that cannot be asked."""
    begun = perf_counter()
    connection = await connect_within(seconds, server)
    try:
        return await ask_node(node, connection, max(0.05, seconds - (perf_counter() - begun)))
    finally:
        await connection.close()


def measure_nodes(
    servers: Mapping[str, PostgresConfig], seconds: float = 5.0
) -> dict[str, NodeState | EngineError]:
    """All of these at the same time, each with its answer or why there is none; for callers without an event loop."""

    async def one(node: str, server: PostgresConfig) -> NodeState | EngineError:
        try:
            return await look_at_node(node, server, seconds)
        except EngineError as error:
            return error

    async def every() -> list[NodeState | EngineError]:
        return await asyncio.gather(*(one(node, server) for node, server in servers.items()))

    return dict(zip(servers, asyncio.run(every()), strict=True))
