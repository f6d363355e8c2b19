"""Positions of writes, and reads that have to see them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from pgproof.errors import DataError, TransientError
from pgproof.model.cluster_memory import Standing, has_replayed, standing
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState, record_end
from pgproof.model.routing import Role
from pgproof.model.token import Token
from pgproof.routing.cluster import Cluster
from pgproof.routing.failing import is_lost
from pgproof.routing.node import Node
from pgproof.routing.pool import RoutedConnection

# After a COMMIT: a position at or behind it. A primary's timeline is in the names of its WAL files.
POSITION_QUERY: Final[LiteralString] = """
SELECT pg_current_wal_insert_lsn()::text, substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
"""
# What a read on this connection sees, and of which timeline that is (NODE_QUERY has the reasons).
_REACHED_QUERY: Final[LiteralString] = """
SELECT recovering,
       (CASE WHEN recovering THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)::text,
       CASE WHEN recovering
            THEN greatest((SELECT received_tli FROM pg_stat_wal_receiver),
                          (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                          (SELECT timeline_id FROM pg_control_checkpoint()))
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END
  FROM (SELECT pg_is_in_recovery() AS recovering) AS role
"""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02
# WAIT FOR LSN is a command of 19 (its documentation, "WAIT FOR"); it looks at the position only, so the timeline is asked for
# after it.
_WAITS_SINCE = 190_000


def token_of(row: Sequence[Any], state: NodeState) -> Token:
    """Of the answer to POSITION_QUERY."""
    return Token(int(row[1], 16), record_end(Lsn.parse(row[0]), state.segment_size))


def as_token(token: Token | str | None) -> Token | None:
    """Raises PreconditionError for a text that is none."""
    return Token.parse(token) if isinstance(token, str) else token


async def require_kept(cluster: Cluster, token: Token) -> None:
    """See that the token's write is in the history of the primary as far as it is known; a timeline not seen yet is looked for.

    Raises DataError for one that was lost in a failover, or of which that cannot be told, and TransientError for one that is
    ahead of all nodes.
    """
    found = standing(token.timeline, token.lsn, cluster.memory)
    if found is Standing.AHEAD:
        await cluster.look_anew()
        found = standing(token.timeline, token.lsn, cluster.memory)
    elif found is Standing.UNKNOWN:
        await cluster.learn_history()
        found = standing(token.timeline, token.lsn, cluster.memory)
    if found is Standing.KEPT:
        return
    if found is Standing.AHEAD:
        raise TransientError(
            "the token is of a timeline that no node has reached",
            hint="see whether the new primary is among the router's nodes, and whether the token is of this cluster",
            token=str(token),
            timeline=cluster.memory.floor,
        )
    if found is Standing.UNKNOWN and (cluster.routing.primary is None or cluster.lacks_history):
        raise TransientError(
            "whether the write of this token survived the failover is not known yet",
            hint="try again once there is a primary; see the router's status",
            token=str(token),
            timeline=cluster.memory.floor,
        )
    if found is Standing.LOST:
        raise DataError(
            "the write of this token was lost in a failover",
            hint="tell the user, and write it again; the new primary took over before it had received it",
            token=str(token),
            left_at=str(cluster.memory.left.get(token.timeline, "never was on it")),
        )
    raise DataError(
        "whether the write of this token survived the failover is not known",
        hint="read without the token; let the router's role have REPLICATION, so that it can read the timeline's history",
        token=str(token),
        timeline=cluster.memory.floor,
    )


def knows(cluster: Cluster, node: Node, token: Token) -> bool:
    """Whether the node had replayed the token when we last saw it."""
    state = node.state
    if state is None:
        return False
    reached = record_end(state.reached, state.segment_size)
    timeline, seen = node.seen_reached
    if timeline == state.timeline and seen > reached:
        reached = seen
    return has_replayed(state, reached, token.timeline, token.lsn, cluster.memory)


async def wait_for(
    cluster: Cluster, node: Node, connection: RoutedConnection, token: Token, seconds: float
) -> bool:
    """Whether the node behind this connection has replayed the token, waited for as long as `seconds`.

    Raises psycopg's errors, and DataError if it is a primary of the token's timeline that does not have it: then nobody has.
    As `require_kept` does, if the node turns out to have been promoted.
    """
    state = node.state
    if state is None:
        return False
    end, pause = monotonic() + seconds, _FIRST_PAUSE
    if state.version >= _WAITS_SINCE and state.in_recovery and seconds > 0:
        await _server_waits(connection, token.lsn, seconds)
    cursor = connection.cursor(row_factory=tuple_row)
    while True:
        row = await (await cursor.execute(_REACHED_QUERY)).fetchone()
        assert row is not None
        recovering, position, timeline = row
        if timeline > cluster.memory.floor or recovering != state.in_recovery:
            # It was promoted since its last check: what is remembered does not say yet what its timeline left behind.
            await cluster.look_anew()
            await require_kept(cluster, token)
            if timeline > cluster.memory.floor or cluster.role(node.id) not in (Role.PRIMARY, Role.STANDBY):
                return False
            state = node.state or state
        reached = record_end(Lsn.parse(position), state.segment_size) if position else Lsn(0)
        if timeline == state.timeline:
            node.seen_reached = (
                timeline,
                max(reached, node.seen_reached[1] if node.seen_reached[0] == timeline else reached),
            )
        if reached >= token.lsn and (
            timeline == token.timeline
            or (
                timeline > token.timeline
                and standing(token.timeline, token.lsn, cluster.memory) is Standing.KEPT
            )
        ):
            return True
        if not recovering and timeline == token.timeline:
            raise DataError(
                "the primary does not have the write of this token",
                hint="it is of another cluster, or was lost in a crash (synchronous_commit off, or a restored server)",
                token=str(token),
                node=node.id,
            )
        if (left := end - monotonic()) <= 0:
            return False
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _server_waits(connection: RoutedConnection, lsn: Lsn, seconds: float) -> None:
    """As long as the server waits by itself, nobody has to ask it again and again."""
    milliseconds = max(1, round(seconds * 1000))
    command = f"WAIT FOR LSN '{lsn}' WITH (MODE 'standby_replay', TIMEOUT '{milliseconds}ms', NO_THROW)"
    try:
        await connection.execute(command.encode())
    except psycopg.Error as error:
        # Whatever it has against that: asking works everywhere.
        if is_lost(connection, error):
            raise
