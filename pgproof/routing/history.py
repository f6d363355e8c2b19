"""Where the timelines on the way to the primary's were left: its history file, read over the replication protocol.

Needed only where we did not watch the promotion ourselves, and only for tokens and standbys of older timelines. A role without
REPLICATION may not read it; then those are not known, and the primary answers.
"""

from __future__ import annotations

import asyncio
from time import monotonic

import psycopg

from pgproof.errors import DataError, TransientError
from pgproof.model.timelines import TimelineHistory
from pgproof.postgres.connection import conninfo
from pgproof.postgres.cutting import answer_within
from pgproof.routing.cluster import Cluster
from pgproof.routing.node import Node
from pgproof.routing.pool import overrides

# After a refusal; rights and pg_hba.conf change seldom.
_AGAIN_SECONDS = 60.0


async def learn_history(cluster: Cluster, node: Node) -> None:
    """Read the history from `node` if it is the primary and something of it is missing."""
    memory = cluster.memory
    if not cluster.lacks_history or cluster.routing.primary != node.id:
        return
    seconds = cluster.options.check_timeout
    # A physical walsender belongs to no database (see connect_replication).
    settings = {**overrides(node.config), "replication": "true", "dbname": "replication"}
    try:
        async with asyncio.timeout(seconds):
            connection = await psycopg.AsyncConnection.connect(
                conninfo(node.config, settings), autocommit=True
            )
        try:
            # The floor is a number of ours, and the protocol knows no parameters.
            asked = connection.execute(f"TIMELINE_HISTORY {memory.floor:d}".encode())
            row = await (await answer_within(seconds, connection, asked)).fetchone()
        finally:
            await connection.close()
        assert row is not None
        content = row[1].encode() if isinstance(row[1], str) else bytes(row[1])
        history = TimelineHistory.parse(memory.floor, content)
    except (psycopg.Error, TimeoutError, DataError, TransientError):
        cluster.history_after = (memory.floor, monotonic() + _AGAIN_SECONDS)
        await cluster.remember(cluster.memory)
    else:
        await cluster.remember(cluster.memory.read(history))
