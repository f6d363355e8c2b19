"""Where the timelines on the way to the primary's were left: its history file, read over the replication protocol.

Needed only where we did not watch the promotion ourselves, and only for tokens and standbys of older timelines. A role without
REPLICATION may not read it; then those are not known, and the primary answers.
"""

from __future__ import annotations

from time import monotonic

import psycopg

from pgproof.errors import DataError, EngineError, PreconditionError
from pgproof.model.timelines import TimelineHistory
from pgproof.postgres.connection import connect_within
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
        connection = await connect_within(seconds, node.config, **settings)
        try:
            # The floor is a number of ours, and the protocol knows no parameters.
            asked = connection.execute(f"TIMELINE_HISTORY {memory.floor:d}".encode())
            row = await (await answer_within(seconds, connection, asked)).fetchone()
        finally:
            await connection.close()
        assert row is not None
        content = row[1].encode() if isinstance(row[1], str) else bytes(row[1])
        history = TimelineHistory.parse(memory.floor, content)
    except (psycopg.Error, EngineError) as error:
        refused = isinstance(error, (PreconditionError, DataError)) or getattr(error, "sqlstate", None)
        pause = _AGAIN_SECONDS if refused else cluster.options.check_interval
        cluster.history_after = (memory.floor, monotonic() + pause)
        await cluster.remember(cluster.memory)
    else:
        await cluster.remember(cluster.memory.read(history))
