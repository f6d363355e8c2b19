"""A primary with streaming replicas, a router to them, and loads that run meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from pgproof.errors import TransientError
from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.replication import ReadReplicaRouter, ReplicaInfo, ReplicationConfig, RouterOptions
from tests.support import machine
from tests.support.postgres import SUPERUSER, SUPERUSER_PASSWORD, Cluster
from tests.support.streaming import standby_of

# Checks in quick succession, patient enough for a slow machine.
QUICK = RouterOptions(check_interval=0.2, check_timeout=2.0, write_wait=20.0)


@dataclass
class World:
    """`replicas` by name; entering their servers is the world's part."""

    primary: Cluster
    replicas: dict[str, Cluster]

    def tcp(self, **fields: Any) -> PostgresConfig:
        """The superuser's way to the primary over TCP."""
        return self.primary.tcp_config(**{"user": SUPERUSER, "password": SUPERUSER_PASSWORD, **fields})

    def info(self, name: str, **fields: Any) -> ReplicaInfo:
        server = self.replicas[name]
        return ReplicaInfo(id=name, host="127.0.0.1", port=server.port, **fields)

    def router(
        self, options: RouterOptions = QUICK, config: ReplicationConfig | None = None, **weights: float
    ) -> ReadReplicaRouter:
        """To all nodes over TCP, as the superuser."""
        router = ReadReplicaRouter(self.tcp(), config, options)
        for name in self.replicas:
            router.add_replica(self.info(name, weight=weights.get(name, 1)))
        return router

    def catch_up(self, *names: str) -> None:
        lsn = Lsn.parse(self.primary.psql("SELECT pg_current_wal_flush_lsn()"))
        for name in names or self.replicas:
            machine.wait_until(
                lambda server=self.replicas[name]: (
                    Lsn.parse(server.psql("SELECT pg_last_wal_replay_lsn()")) >= lsn
                ),
                f"{name} to replay",
            )


@contextmanager
def world(major: int = 18, replicas: int = 2) -> Iterator[World]:
    settings = {"wal_keep_size": "256MB", "max_replication_slots": 20, "max_wal_senders": 20}
    with ExitStack() as stack:
        primary = stack.enter_context(Cluster(major, settings=settings))
        primary.psql("CREATE TABLE t (id bigserial PRIMARY KEY, note text)")
        servers = {}
        for number in range(1, replicas + 1):
            name = f"replica{number}"
            servers[name] = stack.enter_context(standby_of(primary, name))
        found = World(primary, servers)
        found.catch_up()
        yield found


@contextmanager
def frozen(server: Cluster) -> Iterator[None]:
    """All processes of a server stand still."""
    os.kill(server.pid, signal.SIGSTOP)  # first, so that it starts no child meanwhile
    family = [server.pid, *machine.children(server.pid)]
    try:
        for pid in family[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def follow(old: Cluster, new: Cluster) -> None:
    """Make a stopped server a standby of another one."""
    (old.data_dir / "standby.signal").touch()
    with (old.data_dir / "postgresql.auto.conf").open("a") as file:
        file.write(f"primary_conninfo = 'host={new.socket_dir} port={new.port} user=postgres'\n")
    machine.give_to_service(old.data_dir)


async def until(condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
    """Wait in the event loop until `condition` holds. Raises TimeoutError naming `what`."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}")
        await asyncio.sleep(0.02)


@dataclass
class Load:
    """What clients that read all the time met."""

    done: int = 0
    errors: list[BaseException] = field(default_factory=list)


@asynccontextmanager
async def reads(router: ReadReplicaRouter, clients: int = 4) -> AsyncIterator[Load]:
    """Clients that read, one query after the other, while the block runs."""
    load = Load()

    async def one() -> None:
        while True:
            try:
                await router.fetch_val_read("SELECT count(*) FROM t")
                load.done += 1
            except Exception as error:  # noqa: BLE001 - counted, and looked at by the test
                load.errors.append(error)
            await asyncio.sleep(0.001)

    tasks = [asyncio.create_task(one()) for _ in range(clients)]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def write_until_accepted(work: Callable[[], Awaitable[Any]], timeout: float = 60) -> Any:
    """What `work` returns once it raises TransientError no longer."""
    end = time.monotonic() + timeout
    while True:
        try:
            return await work()
        except TransientError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)


def run(work: Coroutine[Any, Any, Any], timeout: float = 120) -> None:
    """Run it in a loop of its own; it must leave no task behind."""

    async def bounded() -> None:
        try:
            async with asyncio.timeout(timeout):
                await work
        except TimeoutError:
            for each in asyncio.all_tasks():
                each.print_stack()
            raise
        left = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
        assert not left, left

    asyncio.run(bounded())
