"""Give up on a connection whose server does not answer.

Cancelling the task that waits is not enough: psycopg asks the server to cancel first, and waits for that without an end.
A frozen server (SIGSTOP, a stalled disk) never answers, and its kernel keeps the connection alive. So the socket is shut
down here: whoever waits for it sees the end of the stream at once, and psycopg raises OperationalError.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import psycopg

from pgproof.errors import TransientError

T = TypeVar("T")


def cut(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> None:
    """Shut the connection's socket down; whoever waits for an answer gets an OperationalError. Does nothing to a closed one."""
    # OperationalError: it is closed, and has no descriptor. OSError: the other side was faster.
    # Of a duplicate, so that libpq's own descriptor is neither closed nor owned twice.
    with (
        contextlib.suppress(psycopg.OperationalError, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as ours,
    ):
        ours.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cut_after(seconds: float, connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Cut the connection of a thread that waits in this block for longer."""
    timer = threading.Timer(seconds, cut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


async def answer_within(
    seconds: float, connection: psycopg.AsyncConnection[Any], work: Coroutine[Any, Any, T]
) -> T:
    """The result of `work`, which uses the connection. After `seconds`, or when we are cancelled, the connection is cut.

    Raises TransientError if there was no answer in time, and else what `work` raises.
    """
    running = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait([running], timeout=seconds)
    except asyncio.CancelledError:
        cut(connection)
        await asyncio.wait([running])
        running.cancelled() or running.exception()
        raise
    if done:
        return running.result()
    cut(connection)
    await asyncio.wait([running])
    running.cancelled() or running.exception()
    raise TransientError(
        "the server does not answer", hint="see whether it is overloaded, frozen or cut off", seconds=seconds
    )
