"""Nodes that die, freeze, fall behind, are promoted and come back, with clients at work on them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pgproof.errors import TransientError
from pgproof.model.routing import Health, Role
from pgproof.replication import ReplicationConfig
from tests.routing.world import World, frozen, reads, run, until, world, write_until_accepted
from tests.support.streaming import promote


@pytest.fixture
def triple() -> Iterator[World]:
    with world(18, 2) as found:
        yield found


def test_a_replica_that_is_killed_fails_no_read_and_comes_back(triple: World) -> None:
    async def calls() -> None:
        async with triple.router() as router:
            replica = triple.replicas["replica1"]

            def is_(health: Health) -> bool:
                return router.status().node("replica1").health is health

            async with reads(router) as load:
                await until(lambda: load.done > 50, "reads")
                await asyncio.to_thread(replica.kill9)
                await until(lambda: is_(Health.DOWN), "the death to be noticed")
                before = load.done
                await until(lambda: load.done > before + 50, "reads elsewhere")
                await asyncio.to_thread(replica.start)
                await until(lambda: router.status().node("replica1").tier == 0, "the replica to come back")
                counted = router.status().node("replica1").counts.reads
                await until(lambda: router.status().node("replica1").counts.reads > counted, "reads on it")
            assert load.errors == []

    run(calls())


@pytest.mark.parametrize("node", ["replica1", "primary"])
def test_a_frozen_node_holds_nobody_for_long_and_is_used_again(triple: World, node: str) -> None:
    async def calls() -> None:
        server = triple.primary if node == "primary" else triple.replicas[node]
        async with triple.router() as router:
            async with reads(router) as load:
                await until(lambda: load.done > 50, "reads")
                sleeping = None
                if node == "primary":
                    sleeping = asyncio.create_task(router.execute_write("SELECT pg_sleep(600)"))
                    await until(
                        lambda: router.status().node("primary").pools["writes"]["busy"] == 1, "the write"
                    )
                with frozen(server):
                    await until(
                        lambda: router.status().node(node).health is Health.DOWN, "the freeze to be noticed"
                    )
                    before = load.done
                    await until(lambda: load.done > before + 50, "reads elsewhere")
                    if sleeping is not None:
                        with pytest.raises(TransientError, match="outcome is not known"):
                            await sleeping
                await until(lambda: router.status().node(node).health is Health.UP, "it to come back")
            assert load.errors == []
            done = await write_until_accepted(
                lambda: router.execute_write("INSERT INTO t (note) VALUES ('x')")
            )
            assert await router.fetch_val_read("SELECT count(*) FROM t", token=done.token) == 1

    run(calls())


def test_a_promotion_is_followed_and_the_old_primary_is_never_written_to_again(triple: World) -> None:
    async def calls() -> None:
        config = ReplicationConfig(max_lag_seconds=5)
        async with triple.router(config=config) as router:
            first = await router.execute_write("INSERT INTO t (note) VALUES ('before')")
            await asyncio.to_thread(triple.catch_up)
            await asyncio.to_thread(promote, triple.replicas["replica1"])
            await until(lambda: router.status().writer == "replica1", "the promotion to be noticed")
            # The old primary still runs, out of recovery: it is stale, and nobody reads from it or writes to it.
            assert router.status().node("primary").role is Role.STALE
            done = await router.execute_write("INSERT INTO t (note) VALUES ('after')")
            assert (first.token.timeline, done.token.timeline) == (1, 2)
            assert triple.primary.psql("SELECT note FROM t") == "before"
            assert await router.fetch_val_read("SELECT count(*) FROM t", token=done.token) == 2
            assert await router.fetch_val_read("SELECT count(*) FROM t", token=first.token) >= 1
            assert router.status().node("primary").tier is None

    run(calls())
