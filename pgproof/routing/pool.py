"""One pool of connections to one node, that can be ended at once although its server is frozen.

psycopg's pool waits for whoever borrowed a connection, and for its own workers that connect. Here every connection that is out or
is being made is known, and is cut at the socket when the pool ends: whoever waits for the server gets an error, not silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.rows import dict_row, tuple_row
from psycopg.waiting import wait_async
from psycopg_pool import AsyncConnectionPool

from pgproof.model.config import PostgresConfig
from pgproof.postgres.connection import conninfo
from pgproof.postgres.cutting import cut
from pgproof.routing.options import RouterOptions

APPLICATION_NAME = "pgproof_router"
_POLL_SECONDS = 0.1
_OPEN = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)
RV = TypeVar("RV")
# How long a cancelled query may take to end before its connection is given up.
_CANCEL_SECONDS = 1.0

Configure = Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]]


class RoutedConnection(psycopg.AsyncConnection[Any]):
    """Lets a cancelled caller go in time although the server is frozen, and is cut while it connects when its pool ends."""

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> RoutedConnection:
        """As psycopg's; `lent` is the pool that it is made for."""
        lent: Pool = kwargs.pop("lent")
        connecting = asyncio.ensure_future(super().connect(conninfo, **kwargs))
        ended: list[asyncio.Future[Any]] = [connecting, lent.over]
        try:
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait([connecting])
        if connecting.cancelled():
            raise psycopg.OperationalError("the pool has ended")
        connection = connecting.result()
        assert isinstance(connection, cls)
        return connection

    async def wait(self, gen: PQGen[RV], interval: float = _POLL_SECONDS, timeout: float | None = None) -> RV:
        try:
            return await wait_async(gen, self.pgconn.socket, interval=interval)
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                await self._give_up(gen, interval)
            raise

    async def _give_up(self, gen: PQGen[Any], interval: float) -> None:
        """Have the query ended by the server, or else the connection by us."""
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                await self.cancel_safe(timeout=_CANCEL_SECONDS)
                await wait_async(gen, self.pgconn.socket, interval=interval)
        except (psycopg.Error, OSError, TimeoutError):
            pass  # QueryCanceled mostly; whatever it is, the caller's cancellation goes on
        finally:
            if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                self.pgconn.finish()


class Pool:
    """Connections to `config` in autocommit mode; those for reads are read-only by the server's setting."""

    def __init__(self, node: str, config: PostgresConfig, options: RouterOptions, *, writes: bool) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.busy: set[psycopg.AsyncConnection[Any]] = set()
        self._writes = writes
        self._pool: AsyncConnectionPool[RoutedConnection] = AsyncConnectionPool(
            conninfo(config, overrides(config)),
            connection_class=RoutedConnection,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row if options.dict_rows else tuple_row,
                "lent": self,
            },
            min_size=options.write_min if writes else options.read_min,
            max_size=options.write_max if writes else options.read_max,
            timeout=options.pool_wait,
            configure=self._configure,
            name=f"{node}-{'writes' if writes else 'reads'}",
            open=False,
        )

    async def open(self) -> None:
        """Connections are made in the background."""
        await self._pool.open(wait=False)

    async def borrow(self, seconds: float | None = None) -> RoutedConnection:
        """Raises psycopg's OperationalError if there is none in time (PoolTimeout) or the pool has ended (PoolClosed)."""
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        connection = await self._pool.getconn(seconds)
        if task and task.cancelling() > cancelled:
            # The pool waits by asyncio.wait_for, which before Python 3.12 swallows a cancellation that comes with a connection.
            await self._pool.putconn(connection)
            raise asyncio.CancelledError
        if self.over.done():
            await self._pool.putconn(connection)
            raise psycopg.OperationalError("the node went down")
        self.busy.add(connection)
        return connection

    async def give_back(self, connection: RoutedConnection) -> None:
        if connection.pgconn.transaction_status in _OPEN:
            with contextlib.suppress(psycopg.Error):  # it is broken then, and the pool throws it away
                await connection.rollback()
        self.busy.discard(connection)
        await self._pool.putconn(connection)

    async def borrow_sound(self, seconds: float | None = None) -> RoutedConnection:
        """One that the server has not closed meanwhile, as far as can be told without asking it."""
        while True:
            connection = await self.borrow(seconds)
            if not _hung_up(connection):
                return connection
            await connection.close()
            await self.give_back(connection)

    async def renew(self, connection: RoutedConnection) -> None:
        """After somebody had it to himself: into the mode that the next one expects."""
        if connection.closed:
            return
        with contextlib.suppress(psycopg.Error):  # it is broken then, and the pool throws it away
            if connection.pgconn.transaction_status in _OPEN:
                await connection.rollback()
            if not connection.autocommit:
                await connection.set_autocommit(True)
            await self._configure(connection)

    async def end(self) -> None:
        """Cut what is out, let nobody wait any longer, and close the rest."""
        if not self.over.done():
            self.over.set_result(None)
        self.cut()
        await self._pool.close()

    def cut(self) -> None:
        for connection in self.busy:
            cut(connection)

    def figures(self) -> dict[str, int]:
        """Sizes of the pool now, and its counts of requests, errors and lost connections (psycopg_pool's names)."""
        return {**self._pool.get_stats(), "busy": len(self.busy)}

    async def _configure(self, connection: RoutedConnection) -> None:
        if self._writes:
            return
        if self.over.done():
            raise psycopg.OperationalError("the pool has ended")
        self.busy.add(connection)  # so that it is cut if the server freezes just now
        try:
            await connection.execute("SET default_transaction_read_only = on")
        finally:
            self.busy.discard(connection)


def overrides(config: PostgresConfig) -> dict[str, str]:
    """What the router sets of libpq's parameters beside those that are configured."""
    # Roles are measured here: libpq must not refuse a node for its role.
    ours = {"target_session_attrs": "any"}
    if "application_name" not in config.options:
        ours["application_name"] = APPLICATION_NAME
    if not config.database and "service" not in config.options:
        ours["dbname"] = "postgres"
    return ours


def _hung_up(connection: RoutedConnection) -> bool:
    """Whether the other side has closed an idle connection: then there is something to read, and reading it says so."""
    try:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        # First perhaps the reason, then the end of the stream.
        while poll.poll(0) and connection.pgconn.status == pq.ConnStatus.OK:
            connection.pgconn.consume_input()
    except (psycopg.Error, OSError):
        return True
    return connection.pgconn.status == pq.ConnStatus.BAD
