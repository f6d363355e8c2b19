"""Look closely at all nodes of a cluster at once, so that their answers can be held against each other.

The order is what makes the lag right: the primary's position is taken first, what the standbys have replayed after it, and how
far the primary has written by then at the end. A standby that is behind is watched until it has replayed what the primary
had at the first of these: how long that takes is its lag, by no server's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeVar

import psycopg

from pgproof.errors import EngineError, TransientError
from pgproof.model.config import PostgresConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState, record_end
from pgproof.model.replica_status import NodeDetails
from pgproof.postgres.connection import connect_within, server_error
from pgproof.postgres.cutting import answer_within
from pgproof.postgres.node_query import ask_node
from pgproof.postgres.replica_details import read_details

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Surveyed:
    """`caught_up` is after how many seconds a standby had replayed what the primary had, None if it had not so soon.
    `waited` is how long that was watched."""

    state: NodeState
    details: NodeDetails
    caught_up: float | None = None
    waited: float = 0.0


# Of the states of those that answered, the primary's name; None for an answer that never came.
ChoosePrimary = Callable[[Mapping[str, NodeState | None]], str | None]


def survey_nodes(
    servers: Mapping[str, PostgresConfig],
    primary_of: ChoosePrimary,
    job: Job,
    *,
    seconds: float,
    patience: float,
) -> dict[str, Surveyed | EngineError]:
    """All of these, each with its answer or why there is none.

    A connection and each answer may take `seconds`. One that cannot be reached is tried a second time before it counts as
    that. A standby gets `patience` seconds to catch up.
    """
    return asyncio.run(_until_stopped(_survey(servers, primary_of, seconds, patience), job))


async def _until_stopped(work: Coroutine[Any, Any, T], job: Job) -> T:
    running = asyncio.ensure_future(work)
    while not (await asyncio.wait([running], timeout=0.2))[0]:
        if job.stop.is_set():
            running.cancel()
    if running.cancelled():
        job.checkpoint()
    return running.result()


async def _survey(
    servers: Mapping[str, PostgresConfig], primary_of: ChoosePrimary, seconds: float, patience: float
) -> dict[str, Surveyed | EngineError]:
    async with AsyncExitStack() as stack:
        nodes = [_Node(name, server, seconds) for name, server in servers.items()]
        for node in nodes:
            stack.push_async_callback(node.close)
        await asyncio.gather(*(node.attempt(node.open()) for node in nodes))
        primary = primary_of({node.name: node.state for node in nodes})
        first = [node for node in nodes if node.name == primary]
        others = [node for node in nodes if node.name != primary]
        await asyncio.gather(*(node.attempt(node.ask()) for node in first))
        goal = next((node.goal() for node in first), None)
        await asyncio.gather(*(node.attempt(node.ask_standby(goal, patience)) for node in others))
        await asyncio.gather(*(node.attempt(node.tell_more()) for node in (*others, *first)))
        return {node.name: node.result() for node in nodes}


class _Node:
    def __init__(self, name: str, server: PostgresConfig, seconds: float) -> None:
        self.name = name
        self.state: NodeState | None = None
        self._server, self._seconds = server, seconds
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._error: EngineError | None = None
        self._details: NodeDetails | None = None
        self._caught_up: float | None = None
        self._waited = 0.0

    async def attempt(self, step: Any) -> None:
        """Do a step, unless one before has failed; a failure is this node's answer."""
        if self._error is not None:
            step.close()
            return
        try:
            await step
        except EngineError as error:
            self._error, self.state = error, None

    async def open(self) -> None:
        try:
            await self._open()
        except TransientError:
            # Two signals before a node is called down.
            await self.close()
            await self._open()

    async def _open(self) -> None:
        begun = perf_counter()
        self._connection = await connect_within(self._seconds, self._server)
        left = max(0.05, self._seconds - (perf_counter() - begun))
        self.state = await ask_node(self.name, self._connection, left)

    async def ask(self) -> None:
        assert self._connection is not None and self.state is not None
        # The first answer's time has the connection in it.
        self.state = replace(
            await ask_node(self.name, self._connection, self._seconds), seconds=self.state.seconds
        )

    def goal(self) -> Lsn | None:
        """How far a standby has to replay to have all of this primary."""
        state = self.state
        return (
            None
            if state is None or state.position is None
            else record_end(state.position, state.segment_size)
        )

    async def ask_standby(self, goal: Lsn | None, patience: float) -> None:
        await self.ask()
        state = self.state
        assert state is not None
        if goal is None or not state.in_recovery:
            return
        if state.reached >= goal:
            self._caught_up = 0.0
        elif not state.replay_paused and not state.apply_delay:
            await self._watch(goal, patience)

    async def _watch(self, goal: Lsn, patience: float) -> None:
        begun, pause = perf_counter(), 0.005
        while self._waited < patience:
            await asyncio.sleep(min(pause, patience - self._waited))
            pause = min(0.1, 2 * pause)
            reached = await self._replayed()
            self._waited = perf_counter() - begun
            if reached >= goal:
                self._caught_up = self._waited
                return

    async def _replayed(self) -> Lsn:
        connection = self._connection
        assert connection is not None

        async def ask() -> Lsn:
            row = await (await connection.execute("SELECT pg_last_wal_replay_lsn()::text")).fetchone()
            return Lsn(0) if row is None or row[0] is None else Lsn.parse(row[0])

        try:
            return await answer_within(self._seconds, connection, ask())
        except psycopg.Error as error:
            raise server_error(
                error.sqlstate, str(error).splitlines()[0], "the question how far it is"
            ) from error

    async def tell_more(self) -> None:
        assert self._connection is not None
        self._details = await read_details(self._connection, self._seconds)

    def result(self) -> Surveyed | EngineError:
        if self._error is not None:
            return self._error
        assert self.state is not None and self._details is not None
        return Surveyed(self.state, self._details, self._caught_up, self._waited)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
