"""Reads go to replicas, writes to the primary, and errors of the user's own come through as they are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from core.db.replication import (
    ReadReplicaRouter,
    ReplicaInfo,
    ReplicationConfig,
    RouterCollector,
    Token,
)
from pgproof.errors import DataError, PreconditionError, TransientError
from pgproof.model.lsn import Lsn
from pgproof.model.routing import Health
from tests.routing.world import QUICK, World, run, until, world
from tests.support.machine import free_ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[World]:
    with world(18, 3) as found:
        yield found


@pytest.fixture
def servers(cluster: World) -> World:
    """With an empty table that all have replayed."""
    cluster.primary.psql("TRUNCATE t")
    cluster.catch_up()
    return cluster


def test_reads_fall_by_weight(servers: World) -> None:
    async def calls() -> None:
        weights = {"replica1": 1, "replica2": 2, "replica3": 5}
        options = replace(QUICK, check_interval=1.0, check_timeout=10.0, read_max=2)
        async with servers.router(options, **weights) as router:

            async def client() -> None:
                for _ in range(1250):
                    await router.fetch_val_read("SELECT 1")

            await asyncio.gather(*(client() for _ in range(8)))
            for name, weight in weights.items():
                expected = 10_000 * weight / 8
                assert abs(router.status().node(name).counts.reads - expected) <= 0.05 * expected
            assert router.status().node("primary").counts.reads == 0

    run(calls())


_LATE = """
CREATE OR REPLACE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'at the commit'; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.note = 'late') EXECUTE FUNCTION late();
"""


def test_every_way_to_read_and_write(servers: World) -> None:
    servers.primary.psql(_LATE)

    async def calls() -> None:
        async with servers.router() as router:
            done = await router.execute_write("INSERT INTO t (note) SELECT g FROM generate_series(1, 3) g")
            assert (done.rowcount, done.rows) == (3, [])
            last = await router.execute_write(
                "UPDATE t SET note = 'a'; DELETE FROM t WHERE id IN (SELECT max(id) FROM t)"
            )
            assert last.rowcount == 1 and last.token > done.token
            await router.execute_write("VACUUM t")  # no transaction block is around it
            token = str(last.token)
            assert await router.fetch_all_read("SELECT note FROM t", token=token) == [("a",), ("a",)]
            assert (
                await router.fetch_one_read("SELECT note FROM t WHERE note = %s", ("b",), token=token) is None
            )
            assert (
                await router.fetch_val_read(
                    "SELECT count(*) FROM t WHERE note = %(x)s", {"x": "a"}, token=token
                )
                == 2
            )
            async with router.transaction() as begun:
                await begun.execute("INSERT INTO t (note) VALUES (%s)", ("b",))
                assert await begun.fetch_val("SELECT count(*) FROM t") == 3
                assert begun.token is None
            assert begun.token is not None
            assert await router.fetch_val_read("SELECT count(*) FROM t", token=begun.token) == 3
            with pytest.raises(ZeroDivisionError):
                async with router.transaction() as begun:
                    await begun.execute("DELETE FROM t")
                    raise ZeroDivisionError
            with pytest.raises(PreconditionError, match="rolled back"):
                async with router.transaction() as begun:
                    await begun.execute("DELETE FROM t")
                    with pytest.raises(psycopg.errors.SyntaxError):
                        await begun.execute("nonsense")
            with pytest.raises(psycopg.errors.RaiseException, match="at the commit"):
                async with router.transaction() as begun:
                    await begun.execute("INSERT INTO t (note) VALUES ('late')")
            async with router.write_connection() as connection:
                await connection.execute("INSERT INTO t (note) VALUES ('c')")
            assert servers.primary.psql("SELECT count(*) FROM t") == "4"
        options = replace(QUICK, dict_rows=True)
        async with servers.router(options) as router:
            assert await router.fetch_all_read("SELECT 1 AS x, 2 AS y") == [{"x": 1, "y": 2}]
            assert await router.fetch_val_read("SELECT 1 AS x, 2 AS y") == 1
            done = await router.execute_write("INSERT INTO t (note) VALUES ('d') RETURNING note")
            assert done.rows == [{"note": "d"}]

    run(calls())


def test_the_users_own_errors_come_through_and_are_tried_once(servers: World) -> None:
    async def calls() -> None:
        async with servers.router() as router:
            with pytest.raises(psycopg.errors.DivisionByZero):
                await router.fetch_all_read("SELECT 1/0")
            with pytest.raises(psycopg.errors.SyntaxError):
                await router.execute_write("nonsense")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await router.fetch_all_read("INSERT INTO t (note) VALUES ('x') RETURNING id")
            with pytest.raises(psycopg.errors.QueryCanceled):
                await router.fetch_all_read(
                    "SELECT set_config('statement_timeout', '50ms', false), pg_sleep(0)"
                )
                async with router.read_connection() as connection:
                    await connection.execute("SET statement_timeout = '50ms'")
                    await connection.execute("SELECT pg_sleep(600)")
            assert sum(each.counts.retries for each in router.status().nodes) == 0
            assert await router.fetch_val_read("SELECT 1") == 1
        # The same on the primary, while it stands in for its replicas.
        alone = ReadReplicaRouter(servers.tcp(), options=QUICK)
        async with alone:
            assert await alone.fetch_val_read("SELECT pg_is_in_recovery()") is False
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await alone.fetch_all_read("INSERT INTO t (note) VALUES ('x') RETURNING id")
            async with alone.read_connection() as connection:
                await connection.execute("SET default_transaction_read_only = off")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await alone.fetch_all_read("INSERT INTO t (note) VALUES ('x') RETURNING id")
            assert alone.get_read_replica().id == "primary"

    run(calls())


def test_a_streamed_read_holds_few_rows_and_frees_its_connection(servers: World) -> None:
    async def calls() -> None:
        options = replace(QUICK, stream_rows=100, read_min=1, read_max=1)
        async with servers.router(options) as router:
            found = [
                row[0] async for row in router.stream_read("SELECT g FROM generate_series(1, %s) g", (1050,))
            ]
            assert found == list(range(1, 1051))
            # More than memory would hold at once; given up early.
            endless = router.stream_read("SELECT repeat('x', 100000) FROM generate_series(1, 1000000)")
            async with aclosing(endless):
                async for _row in endless:
                    break
            assert [each.pools["reads"]["busy"] for each in router.status().nodes] == [0, 0, 0, 0]
            assert await router.fetch_val_read("SELECT 1") == 1
            with pytest.raises(psycopg.errors.DivisionByZero):
                async for _row in router.stream_read("SELECT 1 / (500 - g) FROM generate_series(1, 1000) g"):
                    pass
            # What was read in part is not begun again by itself.
            rows = router.stream_read("SELECT g, pg_backend_pid() FROM generate_series(1, 1000) g")
            with pytest.raises(TransientError, match="while rows were read"):
                async for row in rows:
                    if row[0] == 1:
                        for server in servers.replicas.values():
                            server.psql(
                                f"SELECT pg_terminate_backend({row[1]}) WHERE {row[1]} <> pg_backend_pid()"
                            )
            counted = router.status()
            assert sum(each.counts.retries for each in counted.nodes) == 0

    run(calls())


def test_sessions_read_their_own_writes_and_never_less(servers: World) -> None:
    async def calls() -> None:
        async with servers.router() as router:
            session = router.session()
            for number in range(1, 101):
                await session.execute_write("INSERT INTO t (note) VALUES ('x')")
                assert await session.fetch_val_read("SELECT count(*) FROM t") == number
            async with session.transaction() as begun:
                await begun.execute("DELETE FROM t WHERE id IN (SELECT min(id) FROM t)")
            # In another process, by the token's text.
            other = router.session(str(session.token))
            assert await other.fetch_val_read("SELECT count(*) FROM t") == 99
            async with other.read_connection() as connection:
                assert await (await connection.execute("SELECT count(*) FROM t")).fetchone() == (99,)
            assert [row async for row in other.stream_read("SELECT count(*) FROM t")] == [(99,)]
            with pytest.raises(PreconditionError, match="not a token"):
                router.session("nonsense")
            replicas = [each for each in router.status().nodes if each.id != "primary"]
            assert sum(each.counts.reads for each in replicas) > 0

    run(calls())


def test_paused_replay_is_read_past_its_limits_by_nobody_and_tokens_go_to_the_primary(servers: World) -> None:
    async def calls() -> None:
        config = ReplicationConfig(max_lag_bytes=64 << 10, max_lag_seconds=3600)
        options = replace(QUICK, token_wait=0.1)
        paused = servers.replicas["replica1"]
        paused.psql("SELECT pg_wal_replay_pause()")
        try:
            async with servers.router(options, config) as router:
                await router.execute_write("INSERT INTO t (note) VALUES ('x')")
                assert router.status().node("replica1").tier == 0  # a little behind
                done = await router.execute_write(
                    "INSERT INTO t (note) SELECT repeat('y', 1000) FROM generate_series(1, 500)"
                )
                await until(lambda: router.status().node("replica1").tier is None, "the lag to be noticed")
                status = router.status().node("replica1")
                assert status.lag is not None and status.lag.nbytes > 64 << 10
                assert status.state is not None and status.state.replay_paused and "behind" in status.reason
                for _ in range(50):
                    assert await router.fetch_val_read("SELECT count(*) FROM t", token=done.token) == 501
                assert router.status().node("replica1").counts.reads == 0
            # Alone: within its limits, and still it does not answer for what it has not replayed.
            alone = ReadReplicaRouter(servers.tcp(), ReplicationConfig(max_lag_bytes=1 << 30), options)
            alone.add_replica(servers.info("replica1"))
            async with alone:
                assert await alone.fetch_val_read("SELECT count(*) FROM t") == 0
                assert await alone.fetch_val_read("SELECT count(*) FROM t", token=done.token) == 501
                assert alone.status().node("primary").counts.reads == 1
            # Whoever waits there leaves half of its connections to those who need not.
            patient = replace(options, token_wait=60.0, pool_wait=60.0, read_max=4)
            alone = ReadReplicaRouter(servers.tcp(), ReplicationConfig(max_lag_bytes=1 << 30), patient)
            alone.add_replica(servers.info("replica1"))
            async with alone:
                waiting = [
                    asyncio.ensure_future(alone.fetch_val_read("SELECT count(*) FROM t", token=done.token))
                    for _ in range(10)
                ]
                await until(lambda: sum(each.done() for each in waiting) == 8, "the primary's answers")
                assert await alone.fetch_val_read("SELECT count(*) FROM t") == 0
                assert sum(each.done() for each in waiting) == 8
                for each in waiting:
                    each.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
            strict = replace(options, primary_reads=False)
            alone = ReadReplicaRouter(servers.tcp(), ReplicationConfig(max_lag_bytes=1 << 30), strict)
            alone.add_replica(servers.info("replica1"))
            async with alone:
                with pytest.raises(TransientError, match="has replayed the token"):
                    await alone.fetch_val_read("SELECT count(*) FROM t", token=done.token)
                paused.psql("SELECT pg_wal_replay_resume()")
                servers.catch_up()
                assert await alone.fetch_val_read("SELECT count(*) FROM t", token=done.token) == 501
        finally:
            paused.psql("SELECT pg_wal_replay_resume()")
            servers.catch_up()

    run(calls())


def test_a_token_that_nobody_has_is_refused(servers: World) -> None:
    async def calls() -> None:
        async with servers.router() as router:
            with pytest.raises(DataError, match="does not have the write"):
                await router.fetch_val_read("SELECT 1", token=Token(1, Lsn(0xFF_0000_0000)))
            with pytest.raises(TransientError, match="no node has reached"):
                await router.fetch_val_read("SELECT 1", token=Token(9, Lsn(0x1000)))

    run(calls())


def test_a_read_is_tried_elsewhere_when_its_server_ends_it(servers: World) -> None:
    async def calls() -> None:
        async with servers.router() as router:

            async def slow() -> bool:
                return bool(await router.fetch_val_read("SELECT pg_sleep(1) IS NOT NULL /* slow */"))

            reading = [asyncio.create_task(slow()) for _ in range(6)]
            ended = 0
            while not ended:
                for server in servers.replicas.values():
                    ended += int(
                        server.psql(
                            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                            "WHERE query LIKE '%/* slow */' AND state = 'active' AND pid <> pg_backend_pid()"
                        )
                    )
                await asyncio.sleep(0.02)
            assert await asyncio.gather(*reading) == [True] * 6
            assert sum(each.counts.retries for each in router.status().nodes) >= 1
            # A write is not: nobody knows whether it was committed.
            writing = asyncio.create_task(router.execute_write("SELECT pg_sleep(600) /* write */"))
            while (
                servers.primary.psql(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE query LIKE '%/* write */' AND state = 'active' AND pid <> pg_backend_pid()"
                )
                == "0"
            ):
                await asyncio.sleep(0.02)
            with pytest.raises(TransientError, match="outcome is not known"):
                await writing
            with pytest.raises(TransientError, match="nothing of it was kept"):
                async with router.transaction() as begun:
                    await begun.execute("INSERT INTO t (note) VALUES ('x')")
                    backend = await begun.fetch_val("SELECT pg_backend_pid()")
                    servers.primary.psql(f"SELECT pg_terminate_backend({backend}, 60000)")
                    await begun.execute("SELECT 1")
            assert servers.primary.psql("SELECT count(*) FROM t") == "0"
            # Connections that a restart has broken are no error of the next read or write.
            await asyncio.gather(*(router.fetch_val_read("SELECT pg_sleep(0.2)") for _ in range(24)))
            for server in servers.replicas.values():
                server.psql(
                    "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity "
                    "WHERE application_name = 'pgproof_router' AND pid <> pg_backend_pid()"
                )
            await asyncio.gather(*(router.fetch_val_read("SELECT 1") for _ in range(24)))
            await asyncio.gather(*(router.execute_write("SELECT pg_sleep(0.05)") for _ in range(3)))
            servers.primary.psql(
                "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity "
                "WHERE application_name = 'pgproof_router' AND pid <> pg_backend_pid()"
            )
            await router.execute_write("INSERT INTO t (note) VALUES ('x')")

    run(calls())


def test_a_conflict_with_recovery_is_tried_elsewhere(servers: World) -> None:
    async def calls() -> None:
        server = servers.replicas["replica1"]
        server.psql("ALTER SYSTEM SET max_standby_streaming_delay = 0; SELECT pg_reload_conf()")
        try:
            options = replace(QUICK, check_timeout=10.0)
            router = servers.router(options, replica1=1, replica2=0, replica3=0)
            async with router:
                servers.primary.psql("INSERT INTO t (note) SELECT 'x' FROM generate_series(1, 100)")
                servers.catch_up()
                slow = "SELECT count(*), (SELECT pg_sleep(5) IS NULL) FROM t"
                reading = asyncio.create_task(router.fetch_all_read(slow))
                asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                await until(lambda: server.psql(asleep) == "1", "the read to hold its snapshot")
                await asyncio.to_thread(servers.primary.psql, "DELETE FROM t")
                await asyncio.to_thread(servers.primary.psql, "VACUUM t")
                await reading
                assert router.status().node("replica1").counts.retries == 1
                assert router.status().node("replica1").health is Health.UP
        finally:
            server.psql("ALTER SYSTEM RESET max_standby_streaming_delay; SELECT pg_reload_conf()")

    run(calls())


def test_a_cancelled_caller_is_not_held_by_a_frozen_backend(servers: World) -> None:
    async def calls() -> None:
        options = replace(QUICK, check_interval=30.0, check_timeout=30.0)
        async with servers.router(options) as router:
            async with router.read_connection() as connection:
                backend = connection.info.backend_pid
                os.kill(backend, signal.SIGSTOP)
                try:
                    begun = time.monotonic()
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.3):
                            await connection.execute("SELECT 1")
                    assert time.monotonic() - begun < 15
                    assert connection.closed
                finally:
                    os.kill(backend, signal.SIGCONT)
            # A server that answers ends the query, and the connection stays.
            async with router.read_connection() as connection:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await connection.execute("SELECT pg_sleep(600)")
                assert not connection.closed
                await connection.execute("SELECT 1")

    run(calls())


def test_a_cancellation_is_never_swallowed_while_a_connection_is_handed_over(servers: World) -> None:
    async def calls() -> None:
        options = replace(QUICK, read_max=1)
        async with servers.router(options, replica1=1, replica2=0, replica3=0) as router:

            async def client() -> None:
                while True:
                    await router.fetch_val_read("SELECT 1")

            for _ in range(100):
                clients = [asyncio.create_task(client()) for _ in range(8)]
                await asyncio.sleep(0.005)
                for each in clients:
                    each.cancel()
                await asyncio.wait(clients)
                assert all(each.cancelled() for each in clients)

    run(calls())


def test_closing_under_load_ends_everything(servers: World) -> None:
    async def calls() -> None:
        router = servers.router()
        await router.initialize()
        reading = [asyncio.create_task(router.fetch_all_read("SELECT pg_sleep(600)")) for _ in range(20)]
        writing = asyncio.create_task(router.execute_write("SELECT pg_sleep(600)"))
        await until(
            lambda: sum(each.pools["reads"]["busy"] for each in router.status().nodes) == 20, "the reads"
        )
        await until(lambda: router.status().node("primary").pools["writes"]["busy"] == 1, "the write")
        begun = time.monotonic()
        await router.close()
        assert time.monotonic() - begun < 30
        ended = await asyncio.gather(*reading, writing, return_exceptions=True)
        assert {type(each) for each in ended} == {TransientError}
        with pytest.raises(PreconditionError, match="not initialized"):
            await router.fetch_all_read("SELECT 1")
        for server in (servers.primary, *servers.replicas.values()):
            await until(
                lambda server=server: (
                    server.psql(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgproof_router' "
                        "AND wait_event IS DISTINCT FROM 'PgSleep'"
                    )
                    == "0"
                ),
                "the connections to end",
            )
            server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        # It can be used again.
        async with router:
            assert await router.fetch_val_read("SELECT 1") == 1

    run(calls())


def test_nodes_that_are_away_from_the_beginning(servers: World) -> None:
    async def calls() -> None:
        (nobody,) = free_ports(1)
        router = ReadReplicaRouter(servers.tcp(), options=QUICK)
        router.add_replica(ReplicaInfo(id="away", host="127.0.0.1", port=nobody))
        async with router:
            assert router.status().node("away").health is Health.DOWN
            assert await router.fetch_val_read("SELECT pg_is_in_recovery()") is False
            router.add_replica(servers.info("replica1"))
            await until(lambda: router.status().node("replica1").tier == 0, "the replica that came later")
            assert await router.fetch_val_read("SELECT pg_is_in_recovery()") is True
            with pytest.raises(PreconditionError, match="already"):
                router.add_replica(servers.info("replica1"))
        lost = ReadReplicaRouter(servers.tcp(port=nobody), options=QUICK)
        with pytest.raises(TransientError, match="no node answers") as refused:
            await lost.initialize()
        assert "refused" in str(refused.value)
        # Replicas serve although their primary was never seen.
        lost.add_replica(servers.info("replica1"))
        async with lost:
            assert await lost.fetch_val_read("SELECT pg_is_in_recovery()") is True
            with pytest.raises(TransientError, match="no primary"):
                lost.get_primary()

    run(calls())


def test_status_and_metrics_tell_everything(servers: World) -> None:
    async def calls() -> None:
        async with servers.router() as router:
            await router.fetch_val_read("SELECT 1")
            await router.execute_write("SELECT 1")
            document = json.loads(json.dumps(router.status().to_json()))
            assert (document["primary"], document["writer"], document["timeline"]) == (
                "primary",
                "primary",
                1,
            )
            nodes = {each["id"]: each for each in document["nodes"]}
            assert nodes["primary"]["counts"]["writes"] == 1
            assert (
                nodes["replica1"]["state"]["role"] == "standby" and nodes["replica1"]["lag_bytes"] is not None
            )
            assert "secret" not in json.dumps(document)
            registry = CollectorRegistry()
            registry.register(RouterCollector(router))
            text = generate_latest(registry).decode()
            assert "pgproof_router_writable 1.0" in text
            assert 'pgproof_router_writes_total{node="primary"} 1.0' in text
            assert 'pgproof_router_node_role{node="replica1",role="standby"} 1.0' in text

    run(calls())


def test_libpqs_options_are_passed_on_and_roles_are_not_its_business(servers: World) -> None:
    async def calls() -> None:
        given = {"application_name": "shop", "target_session_attrs": "standby", "options": "-c work_mem=5MB"}
        router = ReadReplicaRouter(servers.tcp(options=given), options=QUICK)
        router.add_replica(servers.info("replica1", options={"application_name": "shop-reads"}))
        async with router:
            settings = "SELECT current_setting('application_name'), current_setting('work_mem')"
            assert await router.fetch_one_read(settings) == ("shop-reads", "5MB")
            assert (await router.execute_write(settings)).rows == [("shop", "5MB")]
        required = ReadReplicaRouter(servers.tcp(options={"sslmode": "require"}), options=QUICK)
        with pytest.raises(TransientError, match="SSL"):
            await required.initialize()
        with pytest.raises(PreconditionError, match="several hosts"):
            ReadReplicaRouter(servers.tcp(host="one,two"))

    run(calls())
