"""One node as the router knows it: its pools, what is at work on it, what it said last, and what was counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout

from pgproof.errors import TransientError
from pgproof.model.config import PostgresConfig
from pgproof.model.lag import Lag
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.routing import Health, Seen
from pgproof.routing.options import RouterOptions
from pgproof.routing.pool import Pool, RoutedConnection

_log = logging.getLogger(__name__)
_NEW_LATENCY = 0.3  # how much a new measurement counts beside what was known


@dataclass(slots=True)
class Counts:
    """Since the router began. `retries` are reads that this node failed and another one was asked for; `failures` are queries
    whose connection broke here, and `checks_failed` the failed signs of its checks."""

    reads: int = 0
    writes: int = 0
    retries: int = 0
    failures: int = 0
    checks_failed: int = 0


class Node:
    """Mutable, and changed by its checks; who uses it may keep it."""

    def __init__(
        self, name: str, config: PostgresConfig, options: RouterOptions, *, weight: float, reads: bool
    ) -> None:
        self.id = name
        self.config = config
        self.weight = weight
        self.reads_allowed = reads
        self.counts = Counts()
        self.health = Health.UNKNOWN
        self.state: NodeState | None = None
        self.reason = "it was not asked yet"
        self.checked = float("-inf")  # when the last good check began
        self.lag: Lag | None = None
        self.latency = 0.0
        self.next_check = 0.0
        self.failed_in_row = 0
        # What a read was seen to find here since the last check: timeline and position.
        self.seen_reached: tuple[int, Lsn] = (0, Lsn(0))
        self.waiting = 0  # reads that wait here for a token
        self.wake = asyncio.Event()
        self.address: tuple[str, int] | None = None
        self._options = options
        self.reader: Pool | None = None
        self.writer: Pool | None = None
        self._endings: set[asyncio.Task[None]] = set()

    def seen(self, now: float) -> Seen:
        """As the model looks at it; a check that is too old is no sign of life."""
        health = self.health
        if health is Health.UP and now - self.checked > self._options.check_age:
            health = Health.SUSPECT
        return Seen(self.id, health, self.state, self.lag, self.latency, self.weight, self.reads_allowed)

    async def answered(self, state: NodeState, began: float) -> None:
        """A good check; it opens the pool for reads if there is none."""
        self.latency += (state.seconds - self.latency) * (_NEW_LATENCY if self.latency else 1.0)
        self.state, self.checked, self.reason = state, began, ""
        if self.health is not Health.UP:
            _log.info("node is up node=%s role=%s", self.id, "standby" if state.in_recovery else "primary")
        self.health = Health.UP
        self.failed_in_row = 0
        if self.reader is None:
            self.reader = Pool(self.id, self.config, self._options, writes=False)
            await self.reader.open()

    def doubt(self, reason: str) -> None:
        """A first sign that it fails."""
        self.reason = reason
        self.seen_reached = (0, Lsn(0))  # it may come back rewound
        if self.health is Health.UP:
            self.health = Health.SUSPECT

    def goes_down(self, reason: str) -> None:
        """A second sign: nobody waits for it any longer."""
        if self.health is not Health.DOWN:
            _log.warning("node is down node=%s reason=%s", self.id, reason)
        self.reason, self.health = reason, Health.DOWN
        self.failed_in_row += 1
        self._end("reader")
        self._end("writer")

    async def open_writer(self) -> None:
        if self.writer is None:
            self.writer = Pool(self.id, self.config, self._options, writes=True)
            await self.writer.open()

    def close_writer(self) -> None:
        """It is no longer written to: what writes on it now is cut."""
        self._end("writer")

    def _end(self, which: str) -> None:
        pool: Pool | None = getattr(self, which)
        if pool is not None:
            setattr(self, which, None)
            ending = asyncio.ensure_future(pool.end())
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def close(self) -> None:
        self._end("reader")
        self._end("writer")
        await asyncio.gather(*self._endings)
        self.health, self.reason = Health.UNKNOWN, "it was not asked yet"

    def lost_a_connection(self, error: BaseException) -> None:
        """A caller's connection broke: a sign that it fails, which the next check has to confirm at once."""
        self.counts.failures += 1
        self.doubt(f"a query lost its connection: {(str(error).splitlines() or [''])[0]}")
        self.wake.set()

    @asynccontextmanager
    async def connection(self, *, writes: bool = False) -> AsyncIterator[RoutedConnection]:
        """One of its connections, in autocommit mode, given back when the block ends.

        Raises TransientError if there is none: it is down, no longer written to, or all are in use for too long.
        """
        pool = self.writer if writes else self.reader
        if pool is None:
            raise unavailable(self)
        connection = await self.borrow(pool)
        try:
            yield connection
        finally:
            await pool.renew(connection)
            if connection.closed:
                self.lost_a_connection(psycopg.OperationalError("closed"))
            await pool.give_back(connection)

    async def borrow_reader(self, seconds: float, *, again: bool) -> tuple[Pool, RoutedConnection]:
        """For a read; when it is tried again, one that the server has not hung up on. Raises TransientError if there is none."""
        pool = self.reader
        if pool is None:
            raise unavailable(self)
        try:
            return pool, await (pool.borrow_sound(seconds) if again else pool.borrow(seconds))
        except psycopg.OperationalError as error:
            self.wake.set()
            raise unavailable(self, error) from error

    async def borrow(self, pool: Pool) -> RoutedConnection:
        """One that the server has not hung up on. Raises TransientError if there is none."""
        try:
            return await pool.borrow_sound()
        except psycopg.OperationalError as error:
            raise unavailable(self, error) from error

    def figures(self) -> dict[str, Any]:
        """Of both pools."""
        return {
            "reads": self.reader.figures() if self.reader else None,
            "writes": self.writer.figures() if self.writer else None,
        }


def unavailable(node: Node, error: Exception | None = None) -> TransientError:
    if isinstance(error, PoolTimeout) and node.health is Health.UP:
        return TransientError(
            "no connection became free in time",
            hint="give the router more connections (read_max, write_max), or look at what holds them so long",
            node=node.id,
        )
    return TransientError(
        "the node takes no queries now",
        hint="see the router's status for what is wrong with it",
        node=node.id,
        health=str(node.health),
        reason=node.reason or (str(error) if error else "it is not the primary"),
    )
