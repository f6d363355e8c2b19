"""The task of each node that asks it what it is, over a kept connection, and over a new one as soon as that one fails.

A first failure makes the node suspect, a second one by another connection makes it down; then it is tried again with a back-off.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from time import monotonic

import psycopg

from pgproof.errors import EngineError
from pgproof.model.node import NodeState
from pgproof.model.routing import Health
from pgproof.postgres.connection import connect_within
from pgproof.postgres.node_query import ask_node
from pgproof.routing.cluster import Cluster
from pgproof.routing.history import learn_history
from pgproof.routing.node import Node
from pgproof.routing.pool import overrides

_MOST_INTERVALS = 8.0
_LEAST_SECONDS = 0.05


class Checker:
    """Checks one node until it is cancelled."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        self._cluster = cluster
        self._node = node
        self._kept: psycopg.AsyncConnection[object] | None = None
        self._jitter = random.Random()

    async def run(self) -> None:
        node = self._node
        try:
            while True:
                node.wake.clear()
                began = monotonic()
                await self.check()
                node.next_check = began + self._pause()
                try:
                    async with asyncio.timeout(max(_LEAST_SECONDS, node.next_check - monotonic())):
                        await node.wake.wait()
                except TimeoutError:
                    pass
        finally:
            await self._drop()

    async def check(self) -> None:
        """Ask once; afterwards the cluster knows what came of it."""
        node, cluster = self._node, self._cluster
        before = node.state if self._kept is not None else None
        if self._kept is not None and not await self._ask(self._kept):
            await cluster.checked(node, None)  # suspect: reads go elsewhere while we look closer
            await self._drop()
            before = None
        if self._kept is None:
            await self._look()
        await cluster.checked(node, before)
        await learn_history(cluster, node)

    async def _ask(self, connection: psycopg.AsyncConnection[object]) -> bool:
        began = monotonic()
        try:
            state = await ask_node(self._node.id, connection, self._cluster.options.check_timeout)
        except EngineError as error:
            self._failed(error)
            return False
        await self._node.answered(_on_its_timeline(state, self._node.state), began)
        return True

    async def _look(self) -> None:
        """By a new connection, which is kept if it answers."""
        node, seconds = self._node, self._cluster.options.check_timeout
        began = monotonic()
        try:
            self._kept = await connect_within(seconds, node.config, **overrides(node.config))
            info = self._kept.info
            node.address = (info.hostaddr or info.host, info.port)
            state = await ask_node(node.id, self._kept, max(_LEAST_SECONDS, seconds - (monotonic() - began)))
        except EngineError as error:
            self._failed(error)
            node.goes_down(error.message + (f": {reason}" if (reason := error.context.get("reason")) else ""))
            await self._drop()
            return
        await node.answered(state, began)

    def _failed(self, error: EngineError) -> None:
        self._node.counts.checks_failed += 1
        self._node.doubt(error.message)

    async def _drop(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.close()

    def _pause(self) -> float:
        interval = self._cluster.options.check_interval
        if self._node.health is not Health.DOWN:
            return interval
        longer = min(_MOST_INTERVALS, 2.0 ** (self._node.failed_in_row - 1))
        return interval * longer * self._jitter.uniform(0.8, 1.2)


def _on_its_timeline(state: NodeState, before: NodeState | None) -> NodeState:
    """A standby whose receiver has ended no longer shows the timeline that it followed, and stays on it all the same.

    `before` is what the same server said before, over the same connection.
    """
    if before is None or not (state.in_recovery and before.in_recovery) or state.receiver:
        return state
    return replace(state, timeline=max(state.timeline, before.timeline))
