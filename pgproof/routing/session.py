"""Reads that see their own writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pgproof.model.token import Token
from pgproof.routing.pool import RoutedConnection
from pgproof.routing.tokens import as_token
from pgproof.routing.writing import Transaction, WriteResult

if TYPE_CHECKING:
    from pgproof.routing.router import ReadReplicaRouter


class Session:
    """Remembers the newest token of its writes, and its reads are held to it. `token` may be handed on as text, to the next
    request of the same user for example.
    """

    def __init__(self, router: ReadReplicaRouter, token: Token | str | None = None) -> None:
        self._router = router
        self.token = as_token(token)

    def saw(self, token: Token | str | None) -> None:
        """What somebody else wrote has to be seen as well. Of two tokens the newer one stays."""
        found = as_token(token)
        if found is not None and (self.token is None or found > self.token):
            self.token = found

    async def execute_write(self, sql: Any, params: Any = None) -> WriteResult:
        done = await self._router.execute_write(sql, params)
        self.saw(done.token)
        return done

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._router.transaction() as begun:
            yield begun
        self.saw(begun.token)

    async def fetch_all_read(self, sql: Any, params: Any = None) -> list[Any]:
        return await self._router.fetch_all_read(sql, params, token=self.token)

    async def fetch_one_read(self, sql: Any, params: Any = None) -> Any | None:
        return await self._router.fetch_one_read(sql, params, token=self.token)

    async def fetch_val_read(self, sql: Any, params: Any = None) -> Any:
        return await self._router.fetch_val_read(sql, params, token=self.token)

    def stream_read(self, sql: Any, params: Any = None) -> AsyncIterator[Any]:
        return self._router.stream_read(sql, params, token=self.token)

    @asynccontextmanager
    async def read_connection(self) -> AsyncIterator[RoutedConnection]:
        async with self._router.read_connection(self.token) as connection:
            yield connection
