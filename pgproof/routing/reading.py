"""Reads: to a node that may answer them, and to another one if that fails before anything was returned."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg

from pgproof.errors import TransientError
from pgproof.model.token import Token
from pgproof.routing.cluster import Cluster
from pgproof.routing.failing import first_line, is_lost, may_succeed_elsewhere
from pgproof.routing.node import Node
from pgproof.routing.pool import Pool, RoutedConnection
from pgproof.routing.tokens import knows, require_kept, wait_for

T = TypeVar("T")
# Who found no connection at one node waits no longer than this at another, in seconds.
_SECOND_PATIENCE = 1.0


class _NotThere(Exception):
    """The node has not replayed the token in time."""


@dataclass(slots=True)
class Lent(Generic[T]):
    """What `work` returned, and the connection that it ran on, which is still held."""

    result: T
    node: Node
    pool: Pool
    connection: RoutedConnection

    async def give_back(self) -> None:
        await self.pool.renew(self.connection)
        if self.connection.closed:
            self.node.lost_a_connection(psycopg.OperationalError("closed"))
        await self.pool.give_back(self.connection)


async def read(cluster: Cluster, work: Callable[[RoutedConnection], Awaitable[T]], token: Token | None) -> T:
    """What `work` returns on a connection for reads. It runs again elsewhere if its connection breaks.

    Raises TransientError if no node can serve, DataError for a token that was lost, and psycopg's errors for what the server
    answers.
    """
    lent = await read_and_hold(cluster, work, token)
    await lent.pool.give_back(lent.connection)
    return lent.result


async def read_and_hold(
    cluster: Cluster, work: Callable[[RoutedConnection], Awaitable[T]], token: Token | None
) -> Lent[T]:
    """As `read`, and the caller gives the connection back."""
    if not cluster.fresh:
        await cluster.look_anew()
    await cluster.someone_reads()
    node = cluster.pick() if token is None else await _pick_for(cluster, token)
    tried: set[str] = set()
    most = attempts = max(3, len(cluster.nodes) + 1)
    patience = cluster.options.pool_wait
    while True:
        again = attempts < most
        attempts -= 1
        try:
            pool, connection = await node.borrow_reader(patience, again=again)
        except TransientError as error:
            last: Exception = error
            patience = min(patience, _SECOND_PATIENCE)
        else:
            try:
                if token is not None and not knows(cluster, node, token):
                    await _see(cluster, node, connection, token)
                lent = Lent(await work(connection), node, pool, connection)
            except BaseException as error:
                await pool.give_back(connection)
                if isinstance(error, psycopg.Error) and may_succeed_elsewhere(connection, error):
                    if is_lost(connection, error):
                        node.lost_a_connection(error)
                elif not isinstance(error, _NotThere):
                    raise
                last = error
            else:
                node.counts.reads += 1
                return lent
        node.counts.retries += 1
        tried.add(node.id)
        await cluster.someone_reads()
        node = _next(cluster, tried, token, last, attempts)


def _next(cluster: Cluster, tried: set[str], token: Token | None, last: Exception, attempts: int) -> Node:
    """Where to try next. Raises what `last` comes to if there is nowhere."""
    if isinstance(last, _NotThere):
        primary = cluster.routing.primary
        if primary is not None and primary not in tried and cluster.rules.primary_reads:
            return cluster.nodes[primary]
    elif attempts > 0:
        node = cluster.pick_without(tried)
        if node is None:
            # All were tried: a pool may have held connections of a server that was restarted, so each gets another chance.
            tried.clear()
            node = cluster.pick_without(tried)
        if node is not None:
            return node
    if isinstance(last, TransientError):
        raise last
    if isinstance(last, _NotThere):
        raise TransientError(
            "no node has replayed the token's write in time",
            hint="try again; see the replicas' lag in the router's status, or wait longer (token_wait)",
            token=str(token),
        )
    raise TransientError(
        "the read was lost with its connection, on every node that was tried",
        hint="try again; see the router's status for what is wrong with the nodes",
        reason=first_line(last),
    ) from last


async def _pick_for(cluster: Cluster, token: Token) -> Node:
    """A node that has replayed the token by what is known, or else one to wait for. Raises as `require_kept` does."""
    await require_kept(cluster, token)
    node = cluster.pick()
    if knows(cluster, node, token):
        return node
    behind = {each.id for each in cluster.nodes.values() if not knows(cluster, each, token)}
    for tier in cluster.routing.tiers[:1]:
        if (rest := tier.without(behind)) is not None:
            return cluster.nodes[rest.pick(cluster.turn())]
    return node


async def _see(cluster: Cluster, node: Node, connection: RoutedConnection, token: Token) -> None:
    primary = node.id == cluster.routing.primary
    # Who waits holds a connection, and half of them stay free for reads that need not wait.
    if not primary and cluster.rules.primary_reads and node.waiting >= max(1, cluster.options.read_max // 2):
        raise _NotThere
    node.waiting += 1
    try:
        seen = await wait_for(
            cluster, node, connection, token, 0.0 if primary else cluster.options.token_wait
        )
    finally:
        node.waiting -= 1
    if not seen:
        raise _NotThere


@asynccontextmanager
async def read_connection(cluster: Cluster, token: Token | None) -> AsyncIterator[RoutedConnection]:
    """A connection for reads to somebody's own use, on a node that has replayed the token."""

    async def alone(_connection: RoutedConnection) -> None:
        return None

    lent = await read_and_hold(cluster, alone, token)
    try:
        yield lent.connection
    finally:
        await lent.give_back()


async def stream(
    cluster: Cluster, statement: Any, params: Any, token: Token | None, rows: int
) -> AsyncGenerator[Any, None]:
    """The rows of a cursor of the server's, `rows` at a time. Only until the first ones are here another node may be asked."""

    async def begin(connection: RoutedConnection) -> tuple[psycopg.AsyncServerCursor[Any], list[Any]]:
        await connection.execute("BEGIN READ ONLY")
        cursor = connection.cursor(name="pgproof_stream")
        await cursor.execute(statement, params)
        return cursor, await cursor.fetchmany(rows)

    lent = await read_and_hold(cluster, begin, token)
    try:
        cursor, batch = lent.result
        while batch:
            for row in batch:
                yield row
            batch = await cursor.fetchmany(rows)
        await cursor.close()
    except psycopg.Error as error:
        if not is_lost(lent.connection, error):
            raise
        raise TransientError(
            "the connection was lost while rows were read",
            hint="begin the read again; what came before is not complete",
            node=lent.node.id,
            reason=first_line(error),
        ) from error
    finally:
        await lent.give_back()
