"""Writes: to the primary, once, with a token of each that reads can be held to.

A write is never tried again. If its connection breaks nobody knows whether it was committed, and the error says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pgproof.errors import PreconditionError, TransientError
from pgproof.model.token import Token
from pgproof.routing.cluster import Cluster
from pgproof.routing.failing import first_line, is_lost
from pgproof.routing.node import Node, unavailable
from pgproof.routing.pool import Pool, RoutedConnection
from pgproof.routing.tokens import POSITION_QUERY, token_of


@dataclass(frozen=True, slots=True)
class WriteResult:
    """`rows` are what RETURNING gave; of several statements, both figures are the last one's. A read with the `token` sees the
    write.
    """

    rowcount: int
    rows: list[Any]
    token: Token


class Transaction:
    """One transaction on the primary. `token` is there once it is committed."""

    def __init__(self, connection: RoutedConnection) -> None:
        self.connection = connection
        self.token: Token | None = None

    async def execute(self, sql: Any, params: Any = None) -> psycopg.AsyncCursor[Any]:
        """Run a statement; rows are fetched from the cursor that is returned."""
        return await self.connection.execute(sql, params)

    async def fetch_all(self, sql: Any, params: Any = None) -> list[Any]:
        return await (await self.execute(sql, params)).fetchall()

    async def fetch_one(self, sql: Any, params: Any = None) -> Any | None:
        """The first row, None without one."""
        return await (await self.execute(sql, params)).fetchone()

    async def fetch_val(self, sql: Any, params: Any = None) -> Any:
        """The first column of the first row, None without one."""
        return first_value(await self.fetch_one(sql, params))


async def execute_write(cluster: Cluster, sql: Any, params: Any) -> WriteResult:
    """Raises TransientError if there is no primary in time, or if the outcome is not known; psycopg's errors for what the
    server answers.
    """
    async with _primary(cluster) as (node, connection):
        cursor = await connection.execute(sql, params)
        while cursor.nextset():
            pass
        rows = await cursor.fetchall() if cursor.description else []
        return WriteResult(cursor.rowcount, rows, await _position(node, connection))


@asynccontextmanager
async def transaction(cluster: Cluster) -> AsyncIterator[Transaction]:
    """Committed when the block ends, rolled back if it raises.

    Raises TransientError if the connection breaks; it says whether anything may have been committed.
    """
    async with _primary(cluster, known=True) as (node, connection):
        begun = Transaction(connection)
        await connection.execute("BEGIN")
        try:
            yield begun
        except BaseException:
            if not connection.closed:
                await connection.rollback()
            raise
        try:
            async with connection.pipeline():  # one round trip for both
                ended = await connection.execute("COMMIT")
                position = connection.cursor(row_factory=tuple_row)
                await position.execute(POSITION_QUERY)
            row = await position.fetchone()
        except psycopg.Error as error:
            if is_lost(connection, error):
                await connection.close()
                raise _not_known(node, error) from error
            raise
        if ended.statusmessage == "ROLLBACK":
            raise PreconditionError(
                "the transaction was rolled back, because one of its statements had failed",
                hint="let the statement's error leave the block, or use a savepoint (connection.transaction())",
            )
        assert row is not None and node.state is not None
        begun.token = token_of(row, node.state)


@asynccontextmanager
async def write_connection(cluster: Cluster) -> AsyncIterator[RoutedConnection]:
    """One of the primary's connections, in autocommit mode, for somebody's own use."""
    node, pool, connection = await _borrow(cluster)
    try:
        yield connection
    finally:
        await _give_back(node, pool, connection, renew=True)


async def _borrow(cluster: Cluster) -> tuple[Node, Pool, RoutedConnection]:
    end = monotonic() + cluster.options.write_wait
    while True:
        node = await cluster.writer()
        pool = node.writer
        if pool is None:
            raise unavailable(node)
        try:
            connection = await node.borrow(pool)
            break
        except TransientError:
            # Who waited for a connection to a primary that went away waits for the next one; nothing was sent yet.
            if not pool.over.done() or monotonic() > end:
                raise
    if connection.pgconn.parameter_status(b"in_hot_standby") == b"on":
        await pool.give_back(connection)
        node.wake.set()
        raise TransientError(
            "the primary has become a standby", hint="try again; nothing was written", node=node.id
        )
    cluster.wrote(node)
    node.counts.writes += 1
    return node, pool, connection


async def _give_back(node: Node, pool: Pool, connection: RoutedConnection, *, renew: bool) -> None:
    if renew:
        await pool.renew(connection)
    if connection.closed:
        node.lost_a_connection(psycopg.OperationalError("closed"))
    await pool.give_back(connection)


@asynccontextmanager
async def _primary(cluster: Cluster, *, known: bool = False) -> AsyncIterator[tuple[Node, RoutedConnection]]:
    """`known`: what breaks in the block has left nothing behind, because it was not committed."""
    node, pool, connection = await _borrow(cluster)
    try:
        yield node, connection
    except psycopg.Error as error:
        if not is_lost(connection, error):
            raise
        if known:
            raise TransientError(
                "the connection was lost in the transaction, and nothing of it was kept",
                hint="run the whole transaction again",
                node=node.id,
                reason=first_line(error),
            ) from error
        raise _not_known(node, error) from error
    finally:
        await _give_back(node, pool, connection, renew=False)


def _not_known(node: Node, error: psycopg.Error) -> TransientError:
    return TransientError(
        "the connection was lost during a write, whose outcome is not known",
        hint="look whether it is there before you write it again",
        node=node.id,
        reason=first_line(error),
    )


async def _position(node: Node, connection: RoutedConnection) -> Token:
    cursor = connection.cursor(row_factory=tuple_row)
    row = await (await cursor.execute(POSITION_QUERY)).fetchone()
    assert row is not None and node.state is not None
    return token_of(row, node.state)


def first_value(row: Any) -> Any:
    """Of a tuple or a dictionary."""
    if row is None:
        return None
    return next(iter(row.values())) if isinstance(row, dict) else row[0]
