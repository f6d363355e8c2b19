"""The router: reads to replicas, writes to the primary, whichever nodes those are just now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

from psycopg import sql as psycopg_sql

from pgproof.errors import PreconditionError, TransientError
from pgproof.model.config import PostgresConfig
from pgproof.model.node import NodeState
from pgproof.model.replication_config import PRIMARY, ReplicaInfo, ReplicationConfig, ReplicaType
from pgproof.model.routing import Health
from pgproof.model.token import Token
from pgproof.routing import reading, writing
from pgproof.routing.checking import Checker
from pgproof.routing.cluster import Cluster
from pgproof.routing.node import Node
from pgproof.routing.options import RouterOptions
from pgproof.routing.pool import RoutedConnection
from pgproof.routing.session import Session
from pgproof.routing.status import RouterStatus, status_of
from pgproof.routing.tokens import as_token
from pgproof.routing.writing import Transaction, WriteResult

Statement = str | bytes | psycopg_sql.SQL | psycopg_sql.Composed
Params = Any


class NodeHandle:
    """One node that was chosen; what it is may change at any time."""

    def __init__(self, node: Node, *, writes: bool) -> None:
        self._node = node
        self._writes = writes

    @property
    def id(self) -> str:
        return self._node.id

    @property
    def config(self) -> PostgresConfig:
        """The way to it."""
        return self._node.config

    @property
    def state(self) -> NodeState | None:
        """What it said last."""
        return self._node.state

    def connection(self) -> AbstractAsyncContextManager[RoutedConnection]:
        """A connection to this very node, for reads of a replica and for writes of the primary.

        Raises TransientError if it gives none, or has become something else.
        """
        return self._node.connection(writes=self._writes)

    def __repr__(self) -> str:
        return f"<node {self.id}: {self._node.config}>"


class ReadReplicaRouter:
    """Sends reads to the replicas of `primary` and writes to the primary.

    Add the replicas (`add_replica`, or `config`), then `await initialize()` or enter it with `async with`; it belongs to the
    event loop in which that happens. It needs roles that may connect to their database, and pg_monitor to see timelines at
    once. Queries raise psycopg's errors for what the server answers to them, and the engine's for what the router cannot do.
    """

    def __init__(
        self,
        primary: PostgresConfig,
        config: ReplicationConfig | None = None,
        options: RouterOptions | None = None,
    ) -> None:
        config = config or ReplicationConfig()
        hosts = (primary.host or "", primary.options.get("hostaddr", ""))
        if any("," in each for each in hosts):
            raise PreconditionError(
                "the primary's configuration names several hosts",
                hint="name one, and add the others as replicas; the router finds out which is the primary",
                host=primary.host,
            )
        self._primary = primary
        self._config = config
        self._options = options or RouterOptions()
        self._cluster = Cluster(config, self._options)
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._running = False
        self._add(PRIMARY, primary, weight=1, reads=True)
        for each in config.replicas:
            self.add_replica(each)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, options: RouterOptions | None = None) -> Self:
        """The primary by libpq's variables (PGHOST, …), the replicas by READ_REPLICA_HOSTS, _USER and _PASSWORD, and the limits
        by REPLICA_MAX_LAG_BYTES and REPLICA_MAX_LAG_SECONDS. Raises PreconditionError for what cannot be read."""
        return cls(PostgresConfig.from_env(environ), ReplicationConfig.from_env(environ), options)

    def add_replica(self, replica: ReplicaInfo) -> None:
        """Also while the router runs. Raises PreconditionError if there is a node of this name."""
        self._add(
            replica.id,
            replica.config(self._primary),
            weight=replica.weight,
            reads=replica.replica_type is ReplicaType.READ_ONLY,
        )

    async def initialize(self) -> None:
        """Ask all nodes what they are, and begin to watch them. Those that are down are tried again for as long as the router
        lives.

        Raises TransientError or PreconditionError if not one node answers.
        """
        if self._running:
            return
        self._running = True
        try:
            for node in self._cluster.nodes.values():
                self._watch(node)
            if self._config.patroni_urls:
                self._checks["patroni"] = asyncio.create_task(
                    self._cluster.follow_patroni(), name="pgproof-router-patroni"
                )
                await self._cluster.patroni.asked.wait()
            await self._cluster.first_looks()
            if all(each.health is Health.DOWN for each in self._cluster.nodes.values()):
                raise TransientError(
                    "no node answers",
                    hint="see whether the servers run and are reached from here, and whether user and password are right",
                    **{each.id: each.reason for each in self._cluster.nodes.values()},
                )
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Cut what is still at work, and leave neither task nor connection behind. It can be initialized again."""
        if not self._running:
            return
        self._running = False
        checks = list(self._checks.values())
        self._checks.clear()
        for each in checks:
            each.cancel()
        ended = await asyncio.gather(*checks, return_exceptions=True)
        await self._cluster.close()
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def fetch_all_read(
        self, sql: Statement, params: Params = None, *, token: Token | str | None = None
    ) -> list[Any]:
        """All rows of a read."""
        self._require_running()

        async def fetch(connection: RoutedConnection) -> list[Any]:
            return await (await connection.execute(sql, params)).fetchall()

        return await reading.read(self._cluster, fetch, as_token(token))

    async def fetch_one_read(
        self, sql: Statement, params: Params = None, *, token: Token | str | None = None
    ) -> Any | None:
        """The first row of a read, None without one."""
        self._require_running()

        async def fetch(connection: RoutedConnection) -> Any:
            return await (await connection.execute(sql, params)).fetchone()

        return await reading.read(self._cluster, fetch, as_token(token))

    async def fetch_val_read(
        self, sql: Statement, params: Params = None, *, token: Token | str | None = None
    ) -> Any:
        """The first column of the first row, None without one."""
        return writing.first_value(await self.fetch_one_read(sql, params, token=token))

    async def stream_read(
        self, sql: Statement, params: Params = None, *, token: Token | str | None = None
    ) -> AsyncIterator[Any]:
        """The rows of a read one by one, a few (`stream_rows`) of them in memory. Its connection is free again when all were
        read, or the iterator is closed (`contextlib.aclosing`).
        """
        self._require_running()
        rows = reading.stream(self._cluster, sql, params, as_token(token), self._options.stream_rows)
        try:
            async for row in rows:
                yield row
        finally:
            await rows.aclose()

    async def execute_write(self, sql: Statement, params: Params = None) -> WriteResult:
        """Run a statement on the primary, committed by itself.

        Raises TransientError if there is no primary in time (`write_wait`), or if the connection broke and the outcome is not
        known; ConflictError if two nodes claim to be the primary.
        """
        self._require_running()
        return await writing.execute_write(self._cluster, sql, params)

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction on the primary: committed when the block ends, rolled back if it raises. Raises as `execute_write`."""
        self._require_running()
        return writing.transaction(self._cluster)

    def read_connection(
        self, token: Token | str | None = None
    ) -> AbstractAsyncContextManager[RoutedConnection]:
        """A connection for reads to one's own use, in autocommit mode."""
        self._require_running()
        return reading.read_connection(self._cluster, as_token(token))

    def write_connection(self) -> AbstractAsyncContextManager[RoutedConnection]:
        """A connection to the primary to one's own use, in autocommit mode."""
        self._require_running()
        return writing.write_connection(self._cluster)

    def session(self, token: Token | str | None = None) -> Session:
        """Reads that see the session's own writes, and those of `token`."""
        return Session(self, token)

    def get_primary(self) -> NodeHandle:
        """The node that is written to now. Raises TransientError if there is none."""
        self._require_running()
        return NodeHandle(self._cluster.primary_now(), writes=True)

    def get_read_replica(self) -> NodeHandle:
        """A node for a read, chosen as for any read. Raises TransientError if none can serve."""
        self._require_running()
        return NodeHandle(self._cluster.pick(), writes=False)

    def status(self) -> RouterStatus:
        """Everything that is known of the nodes now, from the last checks; it asks nobody."""
        return status_of(self._cluster)

    def _add(self, name: str, config: PostgresConfig, *, weight: float, reads: bool) -> None:
        if name in self._cluster.nodes:
            raise PreconditionError(
                "there is a node of this name already", hint="give the replica another id", id=name
            )
        node = Node(name, config, self._options, weight=weight, reads=reads)
        self._cluster.nodes[name] = node
        if self._running:
            self._watch(node)

    def _watch(self, node: Node) -> None:
        self._checks[node.id] = asyncio.create_task(
            Checker(self._cluster, node).run(), name=f"pgproof-router-{node.id}"
        )

    def _require_running(self) -> None:
        if not self._running:
            raise PreconditionError(
                "the router is not initialized", hint="await router.initialize() first, or use `async with`"
            )
