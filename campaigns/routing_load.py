"""Many clients of one router, and what each call of theirs asked, got and took: the material of the judge.

A write inserts a number that nobody else uses. A read asks whether a number is there, and which server answers how far it has
replayed, by the server's own clock, which is that of all servers here.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, LiteralString

from pgproof.errors import EngineError
from pgproof.model.lsn import Lsn
from pgproof.model.token import Token
from pgproof.replication import ReadReplicaRouter

WRITES = ("write", "transaction", "session write")
# A call may wait for a token, for a suspected node and for a second signal, each a few seconds.
_NOWHERE = Lsn(0)
HANGS_AFTER = 60.0
_WHERE: LiteralString = (
    "current_setting('cluster_name'), pg_is_in_recovery(),"
    " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,"
    " extract(epoch FROM clock_timestamp())::float8"
)
READ: LiteralString = f"SELECT EXISTS (SELECT FROM ledger WHERE number = %s), {_WHERE}"
WRITE: LiteralString = (
    "INSERT INTO ledger VALUES (%s, current_setting('cluster_name'), extract(epoch FROM clock_timestamp()), %s)"
    f" RETURNING true, {_WHERE}"
)
_STREAM: LiteralString = f"SELECT g, {_WHERE} FROM generate_series(1, 300) g"
_STREAMED = 300
_PAYLOAD = 1000  # bytes, so that WAL flows


@dataclass(slots=True)
class Call:
    """One call of a client; moments are of time.time(). `number` is what it wrote or asked for, and `token` what it got or
    asked with. `error` is empty if it succeeded, `rows` what it had been given when it failed."""

    kind: str
    start: float
    number: int
    token: Token | None = None
    end: float = 0.0
    error: str = ""
    words: str = ""
    rows: int = 0
    saw: bool = False
    server: str = ""
    recovering: bool = False
    lsn: Lsn = _NOWHERE
    at: float = 0.0

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def answered(self, row: Any) -> None:
        self.saw, self.server, self.recovering, lsn, self.at = row
        self.lsn = Lsn.parse(lsn)


@dataclass
class Load:
    """Clients of `router` that rest `pause` seconds between two calls, on average."""

    router: ReadReplicaRouter
    clients: int
    pause: float
    chance: random.Random
    reads: list[Call] = field(default_factory=list)
    writes: list[Call] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(
        default_factory=list
    )  # when our own event loop came late, and by how much
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _acknowledged: list[Call] = field(default_factory=list)
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        # Of ten clients four write: a number only, in a transaction, in a session and for the others to wait for.
        kinds: list[Callable[[random.Random], Awaitable[None]]] = [
            *([self._read] * 4),
            *([self._write_and_read] * 2),
            self._read_with_a_token,
            self._stream,
            self._transaction,
            self._session,
        ]
        for number in range(self.clients):
            chance = random.Random(f"{self.chance.random()} {number}")
            self._tasks.append(asyncio.create_task(self._client(kinds[number % len(kinds)], chance)))
        self._tasks.append(asyncio.create_task(self._watch_our_loop()))

    async def stop(self) -> None:
        """Let every client end the call it is in. Raises what went wrong in one of them."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def raise_failure(self) -> None:
        """Raise what ended a client before its time."""
        for task in self._tasks:
            if task.done():
                task.result()

    def longest_stall(self, since: float, until: float) -> float:
        return max((late for moment, late in self.stalls if since <= moment <= until), default=0.0)

    async def _client(self, act: Callable[[random.Random], Awaitable[None]], chance: random.Random) -> None:
        while not self._stopping:
            await asyncio.sleep(chance.expovariate(1 / self.pause))
            await act(chance)

    async def _watch_our_loop(self) -> None:
        while not self._stopping:
            due = time.monotonic() + 0.05
            await asyncio.sleep(0.05)
            if (late := time.monotonic() - due) > 0.05:
                self.stalls.append((time.time(), late))

    async def _done(self, call: Call, work: Awaitable[None]) -> None:
        """Carry a call out and note how it ended. What is neither an answer nor an error of ours is noted with its type."""
        try:
            async with asyncio.timeout(HANGS_AFTER):
                await work
        except TimeoutError:
            call.error = "hangs"
        except EngineError as error:
            call.error, call.words = type(error).__name__, str(error)
        except Exception as error:  # noqa: BLE001 - the judge refuses it
            call.error, call.words = "raw", f"{type(error).__name__}: {error}"
        call.end = time.time()
        (self.writes if call.kind in WRITES else self.reads).append(call)

    # The kinds of clients.

    async def _read(self, chance: random.Random) -> None:
        call = self._asking(chance, "plain", with_token=False)

        async def work() -> None:
            call.answered(await self.router.fetch_one_read(READ, (call.number,)))

        await self._done(call, work())

    async def _read_with_a_token(self, chance: random.Random) -> None:
        """Somebody else's write, a new one or an old one, as a token that came by a cookie."""
        await self._token_read(self._asking(chance, "token", with_token=True))

    async def _token_read(self, call: Call) -> None:
        async def work() -> None:
            call.answered(await self.router.fetch_one_read(READ, (call.number,), token=call.token))

        await self._done(call, work())

    async def _write_and_read(self, chance: random.Random) -> None:
        write = self._writing("write")

        async def work() -> None:
            result = await self.router.execute_write(WRITE, (write.number, _payload(chance)))
            write.answered(result.rows[0])
            write.token = result.token

        await self._done(write, work())
        if not write.error:
            self._acknowledged.append(write)
            await self._token_read(Call("own", time.time(), write.number, write.token))

    async def _stream(self, chance: random.Random) -> None:
        call = self._asking(chance, "stream", with_token=False)

        async def work() -> None:
            async for row in self.router.stream_read(_STREAM):
                call.rows += 1
                if call.rows == 1:
                    call.answered((False, *row[1:]))
            assert call.rows == _STREAMED, f"a stream ended after {call.rows} rows"

        await self._done(call, work())

    async def _transaction(self, chance: random.Random) -> None:
        write = self._writing("transaction")

        async def work() -> None:
            async with self.router.transaction() as transaction:
                cursor = await transaction.execute(WRITE, (write.number, _payload(chance)))
                row = await cursor.fetchone()
            write.answered(row)
            write.token = transaction.token

        await self._done(write, work())
        if not write.error:
            self._acknowledged.append(write)

    async def _session(self, chance: random.Random) -> None:
        """A visitor: some writes, and reads that must see the last one."""
        session = self.router.session()
        for _ in range(chance.randint(1, 3)):
            write = self._writing("session write")

            async def work(write: Call = write) -> None:
                result = await session.execute_write(WRITE, (write.number, _payload(chance)))
                write.answered(result.rows[0])
                write.token = result.token

            await self._done(write, work())
            if write.error:
                return
            self._acknowledged.append(write)
            for _ in range(chance.randint(1, 2)):
                read = Call("session", time.time(), write.number, write.token)

                async def look(read: Call = read) -> None:
                    read.answered(await session.fetch_one_read(READ, (read.number,)))

                await self._done(read, look())
                await asyncio.sleep(chance.expovariate(1 / self.pause))

    def _writing(self, kind: str) -> Call:
        return Call(kind, time.time(), next(self._numbers))

    def _asking(self, chance: random.Random, kind: str, *, with_token: bool) -> Call:
        """For one of the newest writes most often, for any now and then."""
        known = self._acknowledged
        if not known:
            return Call(kind, time.time(), 0)
        write = chance.choice(known if chance.random() < 0.2 else known[-20:])
        return Call(kind, time.time(), write.number, write.token if with_token else None)


def _payload(chance: random.Random) -> str:
    return chance.randbytes(_PAYLOAD // 2).hex()
