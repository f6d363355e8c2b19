"""Reads through the router beside a bare psycopg pool, on the same servers: a primary and three replicas on this machine.

The bare pool has one replica, its connections are in autocommit mode as the router's. Both take turns, some hundred reads at a
time, so that what else the machine does falls on both. Tokens are measured under writes: every read asks to see the row before
it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from psycopg_pool import AsyncConnectionPool

from bench.targets import Target, target_table
from bench.wal_stream import percentile
from pgproof.postgres.connection import conninfo
from pgproof.replication import ReadReplicaRouter, RouterOptions
from tests.routing.world import World, world

MAJOR = 18
BARE, ROUTER = "bare pool, one replica", "router, three replicas"
TOKENS, PLAIN, WRITES = "router, read with a token", "router, the same without", "router, writes"
_QUERY = "SELECT note FROM t WHERE id = %s"
_CONNECTIONS = 10
_TURN = 500
_ROWS = 1000

Read = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True)
class Measured:
    """Milliseconds that a query took, and how many a second there were."""

    name: str
    clients: int
    round: int
    queries: int
    p50: float
    p99: float
    per_second: float

    def __str__(self) -> str:
        return (
            f"round {self.round + 1}: {self.name}, {self.clients} clients: {self.p50:.3f} ms, p99 {self.p99:.2f} ms, "
            f"{self.per_second:.0f}/s"
        )


def measurements(reads: int, rounds: int) -> Iterator[Measured]:
    with world(MAJOR, 3) as servers:
        servers.primary.psql(f"INSERT INTO t (note) SELECT 'note ' || g FROM generate_series(1, {_ROWS}) g")
        servers.primary.psql("VACUUM ANALYZE t")
        servers.catch_up()
        for number in range(rounds):
            yield from asyncio.run(_round(servers, number, reads))


async def _round(servers: World, number: int, reads: int) -> list[Measured]:
    options = RouterOptions(read_min=_CONNECTIONS // 3 + 1, read_max=_CONNECTIONS, write_min=4, write_max=4)
    found = []
    async with servers.router(options) as router, _bare(router) as pool:
        await pool.wait()

        async def bare(key: int) -> None:
            async with pool.connection() as connection:
                await (await connection.execute(_QUERY, (key,))).fetchall()

        async def routed(key: int) -> None:
            await router.fetch_all_read(_QUERY, (key,))

        for clients in (1, _CONNECTIONS):
            found += await _in_turns(number, clients, reads, {BARE: bare, ROUTER: routed})
        found += await _tokens(router, number, reads // 10)
    return found


def _bare(router: ReadReplicaRouter) -> AsyncConnectionPool[Any]:
    config = router.get_read_replica().config
    return AsyncConnectionPool(
        conninfo(config, {"dbname": "postgres"}),
        kwargs={"autocommit": True},
        min_size=_CONNECTIONS,
        max_size=_CONNECTIONS,
        open=False,
    )


async def _in_turns(number: int, clients: int, reads: int, ways: dict[str, Read]) -> list[Measured]:
    took: dict[str, list[float]] = {name: [] for name in ways}
    wall = dict.fromkeys(ways, 0.0)
    each = max(1, min(_TURN, reads) // clients)

    async def client(read: Read, into: list[float]) -> None:
        for key in range(1, each + 1):
            begun = time.perf_counter()
            await read(key % _ROWS + 1)
            into.append(1000 * (time.perf_counter() - begun))

    for turn in range(1 + max(1, reads // (each * clients))):
        order = list(ways) if turn % 2 else list(reversed(ways))
        for name in order:
            into = took[name] if turn else []  # the first turn fills the pools
            begun = time.perf_counter()
            await asyncio.gather(*(client(ways[name], into) for _ in range(clients)))
            wall[name] += time.perf_counter() - begun if turn else 0
    return [_measured(name, clients, number, took[name], wall[name]) for name in ways]


async def _tokens(router: ReadReplicaRouter, number: int, reads: int) -> list[Measured]:
    """Each write is followed by a read of it, held to its token, and by one that is not; two others write all the time."""
    took: dict[str, list[float]] = {WRITES: [], TOKENS: [], PLAIN: []}

    async def write_on() -> None:
        while True:
            await router.execute_write("INSERT INTO t (note) VALUES ('load')")
            await asyncio.sleep(0.002)

    async def timed(name: str, work: Awaitable[Any]) -> Any:
        begun = time.perf_counter()
        done = await work
        took[name].append(1000 * (time.perf_counter() - begun))
        return done

    writers = [asyncio.create_task(write_on()) for _ in range(2)]
    begun = time.perf_counter()
    try:
        for _ in range(reads):
            done = await timed(
                WRITES, router.execute_write("INSERT INTO t (note) VALUES ('mine') RETURNING id")
            )
            await timed(TOKENS, router.fetch_all_read(_QUERY, done.rows[0], token=done.token))
            await timed(PLAIN, router.fetch_all_read(_QUERY, done.rows[0]))
    finally:
        for each in writers:
            each.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
    wall = time.perf_counter() - begun
    return [_measured(name, 1, number, found, wall) for name, found in took.items()]


def _measured(name: str, clients: int, number: int, took: list[float], wall: float) -> Measured:
    took.sort()
    return Measured(
        name, clients, number, len(took), percentile(took, 0.5), percentile(took, 0.99), len(took) / wall
    )


def markdown(found: Sequence[Measured]) -> str:
    lines = ["| queries | clients | median ms | p99 ms | a second |", "|---|---:|---:|---:|---:|"]

    def of(column: str, name: str, clients: int) -> float:
        return float(
            median(getattr(each, column) for each in found if (each.name, each.clients) == (name, clients))
        )

    for name, clients in dict.fromkeys((each.name, each.clients) for each in found):
        figures = [of(column, name, clients) for column in ("p50", "p99", "per_second")]
        lines.append(f"| {name} | {clients} | {figures[0]:.3f} | {figures[1]:.2f} | {figures[2]:.0f} |")
    many = max(each.clients for each in found)
    targets = [
        Target(
            "a read's overhead at the median, one client",
            1000 * (of("p50", ROUTER, 1) - of("p50", BARE, 1)),
            50,
            " µs",
        ),
        Target(
            f"throughput of the bare pool by the router's, {many} clients",
            of("per_second", BARE, many) / of("per_second", ROUTER, many),
            1 / 0.9,
        ),
    ]
    return "\n".join([*lines, *target_table(targets)])
