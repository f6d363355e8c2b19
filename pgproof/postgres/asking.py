"""One question to a server over a connection of its own, answered within a time or not at all.

For what must not hang on a server that freezes in the middle: a failover asks servers of which it knows no good.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from pgproof.model.config import PostgresConfig
from pgproof.postgres.connection import connect_within, server_error
from pgproof.postgres.cutting import answer_within

Statement = LiteralString | sql.Composed


def ask(
    server: PostgresConfig,
    *statements: Statement,
    params: tuple[Any, ...] = (),
    seconds: float,
    what: str = "a query",
) -> list[tuple[Any, ...]]:
    """The rows of the last of these statements, which are run in autocommit mode, one after the other; `params` are the
    last one's. For callers without an event loop.

    Raises TransientError if there is no answer within `seconds`, and what the server answers in the engine's words.
    """
    return asyncio.run(_ask(server, statements, params, seconds, what))


async def _ask(
    server: PostgresConfig,
    statements: tuple[Statement, ...],
    params: tuple[Any, ...],
    seconds: float,
    what: str,
) -> list[tuple[Any, ...]]:
    begun = perf_counter()
    connection = await connect_within(seconds, server)

    async def run() -> list[tuple[Any, ...]]:
        for statement in statements[:-1]:
            await connection.execute(statement)
        cursor = await connection.execute(statements[-1], params or None)
        return await cursor.fetchall() if cursor.description else []

    try:
        return await answer_within(max(0.05, seconds - (perf_counter() - begun)), connection, run())
    except psycopg.Error as error:
        raise server_error(error.sqlstate, (str(error).splitlines() or [""])[0], what) from error
    finally:
        await connection.close()
