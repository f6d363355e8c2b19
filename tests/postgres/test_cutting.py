"""A frozen backend does not hold its caller."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import psycopg
import pytest

from pgproof.errors import TransientError
from pgproof.postgres.connection import connect, connect_async
from pgproof.postgres.cutting import answer_within, cut, cut_after
from tests.support.postgres import ClusterFactory


@pytest.mark.parametrize("way", ["socket", "tcp"])
def test_a_frozen_backend_is_left_in_time(way: str, cluster_factory: ClusterFactory) -> None:
    server = cluster_factory(18)
    config = server.config() if way == "socket" else server.tcp_config()

    async def ask() -> float:
        connection = await connect_async(config)
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        begun = time.monotonic()
        try:
            with pytest.raises(TransientError, match="does not answer"):
                await answer_within(0.3, connection, connection.execute("SELECT 1"))
            assert connection.closed
        finally:
            os.kill(backend, signal.SIGCONT)
        return time.monotonic() - begun

    # psycopg's own cancellation would wait for the server.
    assert asyncio.run(asyncio.wait_for(ask(), 60)) < 30


def test_whoever_waits_gets_an_error_at_once_and_a_closed_connection_is_no_matter(
    cluster_factory: ClusterFactory,
) -> None:
    server = cluster_factory(15)

    async def wait() -> None:
        connection = await connect_async(server.config())
        sleeping: asyncio.Task[Any] = asyncio.ensure_future(connection.execute("SELECT pg_sleep(300)"))
        await asyncio.sleep(0.2)
        cut(connection)
        with pytest.raises(psycopg.OperationalError):
            await sleeping
        await connection.close()
        cut(connection)

    asyncio.run(asyncio.wait_for(wait(), 60))


def test_a_thread_that_waits_gets_an_error_too(cluster_factory: ClusterFactory) -> None:
    with connect(cluster_factory(18).config()) as connection:
        with cut_after(60, connection):
            connection.execute("SELECT 1")
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(psycopg.OperationalError), cut_after(0.3, connection):
                connection.execute("SELECT 1")
        finally:
            os.kill(backend, signal.SIGCONT)
