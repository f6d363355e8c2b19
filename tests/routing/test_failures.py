"""Nodes that die, freeze, fall behind, are promoted and come back, with clients at work on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pgproof.errors import ConflictError, DataError, TransientError
from pgproof.model.routing import Health, Role
from pgproof.replication import ReadReplicaRouter, ReplicationConfig, Token
from tests.routing.patroni import patroni
from tests.routing.world import (
    QUICK,
    World,
    follow,
    frozen,
    reads,
    run,
    until,
    world,
    write_until_accepted,
)
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
            at_work = asyncio.create_task(router.execute_write("SELECT pg_sleep(600)"))
            await until(lambda: router.status().node("primary").pools["writes"]["busy"] == 1, "the write")
            await asyncio.to_thread(triple.catch_up)
            await asyncio.to_thread(promote, triple.replicas["replica1"])
            # What is at work on the old primary is cut off.
            with pytest.raises(TransientError, match="outcome is not known"):
                await at_work
            assert router.status().writer == "replica1"
            # The old primary still runs, out of recovery: it is stale, and nobody reads from it or writes to it.
            assert router.status().node("primary").role is Role.STALE
            done = await router.execute_write("INSERT INTO t (note) VALUES ('after')")
            assert (first.token.timeline, done.token.timeline) == (1, 2)
            assert triple.primary.psql("SELECT note FROM t") == "before"
            assert await router.fetch_val_read("SELECT count(*) FROM t", token=done.token) == 2
            assert await router.fetch_val_read("SELECT count(*) FROM t", token=first.token) >= 1
            assert router.status().node("primary").tier is None

    run(calls())


def test_who_was_stopped_himself_looks_again_before_he_acts(triple: World) -> None:
    async def calls() -> None:
        async with triple.router() as router:
            await router.execute_write("INSERT INTO t (note) VALUES ('before')")
            # The event loop stands still meanwhile, as in a process that was stopped.
            triple.catch_up("replica1")
            promote(triple.replicas["replica1"])
            time.sleep(QUICK.check_age)
            done = await router.execute_write("INSERT INTO t (note) VALUES ('after')")
            assert done.token.timeline == 2
            assert triple.primary.psql("SELECT note FROM t") == "before"

    run(calls())


@pytest.mark.parametrize("major", [15, 18])
def test_the_old_primary_comes_back_as_a_standby_and_is_read_from(major: int) -> None:
    with world(major, 1) as pair:

        async def calls() -> None:
            async with pair.router() as router:
                first = await router.execute_write("INSERT INTO t (note) VALUES ('before')")
                await asyncio.to_thread(pair.catch_up)
                await asyncio.to_thread(pair.primary.stop)
                waiting = asyncio.create_task(router.execute_write("INSERT INTO t (note) VALUES ('waited')"))
                await asyncio.to_thread(promote, pair.replicas["replica1"])
                waited = await waiting  # for the new primary
                assert waited.token.timeline == 2
                follow(pair.primary, pair.replicas["replica1"])
                await asyncio.to_thread(pair.primary.start)
                await until(
                    lambda: router.status().node("primary").tier == 0, "the old primary to be read from"
                )
                assert router.status().node("primary").role is Role.STANDBY
                for token in (first.token, waited.token):
                    assert await router.fetch_val_read("SELECT count(*) FROM t", token=token) == 2
                assert router.status().node("primary").counts.reads >= 2

        run(calls())


def test_a_token_of_a_lost_write_is_refused_also_by_one_who_did_not_see_the_failover(triple: World) -> None:
    async def calls() -> None:
        lost_on = triple.replicas["replica1"]
        async with triple.router() as router:
            kept = await router.execute_write("INSERT INTO t (note) VALUES ('kept')")
            await asyncio.to_thread(triple.catch_up)
            await asyncio.to_thread(lost_on.stop)
            lost = await router.execute_write("INSERT INTO t (note) VALUES ('lost')")
            await asyncio.to_thread(triple.catch_up, "replica2")
            await asyncio.to_thread(triple.primary.kill9)
            await asyncio.to_thread(lost_on.start)
            await asyncio.to_thread(promote, lost_on)
            await until(lambda: router.status().writer == "replica1", "the promotion to be noticed")
            await refuse(router, lost.token)
            assert await router.fetch_val_read("SELECT count(*) FROM t", token=kept.token) == 1
            # It received what the new primary did not: it has diverged, and takes no reads.
            await until(lambda: router.status().node("replica2").role is Role.DIVERGED, "the divergence")
            assert await router.fetch_all_read("SELECT note FROM t") == [("kept",)]
        # One that begins now reads the history of the new timeline; the server does not tell it after a crash.
        triple.replicas["replica1"].psql("CREATE TABLE more AS SELECT generate_series(1, 10000)")
        triple.replicas["replica1"].kill9()
        triple.replicas["replica1"].start()
        async with triple.router() as router:
            await refuse(router, lost.token)
            assert await router.fetch_val_read("SELECT count(*) FROM t", token=kept.token) == 1
            assert router.status().node("replica2").role is Role.DIVERGED
        # A role that may not read it cannot tell, and says so.
        triple.replicas["replica1"].psql(
            "CREATE ROLE plain LOGIN PASSWORD 'plain'; GRANT SELECT ON t TO plain"
        )
        server = triple.replicas["replica1"]
        async with ReadReplicaRouter(
            server.tcp_config(user="plain", password="plain"), options=QUICK
        ) as router:
            with pytest.raises(DataError, match="is not known"):
                await router.fetch_val_read("SELECT count(*) FROM t", token=kept.token)
            assert await router.fetch_val_read("SELECT count(*) FROM t") == 1

    async def refuse(router: ReadReplicaRouter, token: Token) -> None:
        with pytest.raises(DataError, match="lost in a failover"):
            await router.fetch_val_read("SELECT count(*) FROM t", token=token)

    run(calls())


def test_writes_wait_for_a_primary_for_a_bounded_time_and_reads_go_on(triple: World) -> None:
    async def calls() -> None:
        async with triple.router(replace(QUICK, write_wait=0.5)) as router:
            await asyncio.to_thread(triple.primary.kill9)
            await until(lambda: router.status().writer is None, "the death to be noticed")
            with pytest.raises(TransientError, match="no primary to write to"):
                await router.execute_write("INSERT INTO t (note) VALUES ('x')")
            assert await router.fetch_val_read("SELECT pg_is_in_recovery()") is True
            await asyncio.to_thread(triple.primary.start)
            await write_until_accepted(lambda: router.execute_write("INSERT INTO t (note) VALUES ('x')"))
            # A fence by setting: nothing is written, and it is said why.
            triple.primary.psql(
                "ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()"
            )
            await until(lambda: router.status().writer is None, "the setting to be noticed")
            assert router.status().primary == "primary"
            with pytest.raises(TransientError, match="read-only"):
                await router.execute_write("INSERT INTO t (note) VALUES ('x')")

    run(calls())


def test_two_primaries_of_one_timeline_are_told_apart_by_what_was_written(triple: World) -> None:
    async def calls() -> None:
        other = triple.replicas["replica1"]
        async with triple.router() as writing, triple.router() as fresh:
            await writing.execute_write("INSERT INTO t (note) VALUES ('x')")
            await asyncio.to_thread(triple.catch_up)
            # A copy that was started as a server of its own, by accident.
            await asyncio.to_thread(other.stop)
            (other.data_dir / "standby.signal").unlink()
            await asyncio.to_thread(other.start)
            await until(
                lambda: writing.status().node("replica1").role is Role.RIVAL, "the rival to be noticed"
            )
            assert writing.status().writer == "primary"
            await writing.execute_write("INSERT INTO t (note) VALUES ('x')")
            await until(lambda: fresh.status().writer is None, "the rivals to be noticed")
            with pytest.raises(ConflictError, match="claim to be the primary"):
                await fresh.execute_write("INSERT INTO t (note) VALUES ('x')")
            assert other.psql("SELECT count(*) FROM t") == "1"
            assert await fresh.fetch_val_read("SELECT pg_is_in_recovery()") is True

    run(calls())


def test_beside_a_patroni_only_its_leader_is_written_to(triple: World) -> None:
    async def calls() -> None:
        with patroni(triple) as says:
            config = ReplicationConfig(patroni_urls=(says.url,))
            async with triple.router(replace(QUICK, write_wait=0.3), config) as router:
                await router.execute_write("INSERT INTO t (note) VALUES ('x')")
                assert router.status().to_json()["patroni_leader"] == "primary"
                says.leader = "replica1"
                await until(lambda: router.status().writer is None, "the disagreement")
                with pytest.raises(TransientError, match="Patroni names replica1"):
                    await router.execute_write("INSERT INTO t (note) VALUES ('x')")
                await asyncio.to_thread(promote, triple.replicas["replica1"])
                await until(lambda: router.status().writer == "replica1", "the promotion")
                # It is away: what it said last stays in force.
                says.silent = True
                await until(lambda: router.status().patroni_problem != "", "its silence")
                await router.execute_write("INSERT INTO t (note) VALUES ('x')")
                says.silent, says.leader = False, None
                await until(lambda: router.status().writer is None, "the lost lock")
                assert "names no leader" in router.status().reason

    run(calls())
