"""Reads go to replicas, writes to the primary, and errors of the user's own come through as they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgproof.replication import ReadReplicaRouter, ReplicaType
from tests.routing.world import World, run, world


@pytest.fixture(scope="module")
def pair() -> Iterator[World]:
    with world(18, 2) as found:
        yield found


def test_the_promised_calls(pair: World) -> None:
    async def calls() -> None:
        router = ReadReplicaRouter(pair.router()._primary)
        router.add_replica(pair.info("replica1", replica_type=ReplicaType.READ_ONLY, weight=1))
        await router.initialize()
        done = await router.execute_write("INSERT INTO t (note) VALUES ('test@example.com') RETURNING note")
        assert (done.rowcount, done.rows) == (1, [("test@example.com",)])
        assert await router.fetch_all_read("SELECT note FROM t", token=done.token) == [("test@example.com",)]
        primary, replica = router.get_primary(), router.get_read_replica()
        assert (primary.id, replica.id) == ("primary", "replica1")
        assert primary.state is not None and primary.state.primary
        async with replica.connection() as connection:
            row = await (await connection.execute("SELECT pg_is_in_recovery()")).fetchone()
            assert row == (True,)
        async with primary.connection() as connection:
            await connection.execute("DELETE FROM t")
        await router.close()

    run(calls())
