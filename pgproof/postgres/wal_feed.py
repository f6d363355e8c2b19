"""A running START_REPLICATION: one thread reads, another one replies.

Replies never wait for the store: while it stalls only the reading pauses, and the server hears from us all the
same. They claim as written and flushed what the sink says is durable, and never that anything was applied.
libpq lets one thread at a time use a connection, so both hold a lock for as long as a call takes, never while
they wait.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
from psycopg import pq

from pgproof.errors import EngineError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.lsn import Lsn
from pgproof.postgres.connection import lost, result_error, rows_of
from pgproof.postgres.wal_messages import Keepalive, decode, encode_status

_REPLY_SECONDS = 2.0
_LOOK_SECONDS = 0.2


class FeedSink(Protocol):
    """Takes WAL in order, and stores it in the background."""

    @property
    def durable(self) -> Lsn | None:
        """Everything below is stored; None to claim nothing yet."""

    def write(self, start: Lsn, data: memoryview) -> None: ...

    def has_room(self, timeout: float) -> bool:
        """Wait until more may be written, at most `timeout` seconds."""

    def check(self) -> None:
        """Raise what went wrong in the background."""


@dataclass(frozen=True, slots=True)
class TimelineEnded:
    """The server has sent a timeline to its end, and says where the next one begins."""

    next_timeline: int
    switch: Lsn


class WalFeed:
    """Streams one timeline over one connection. `moved` is to be called whenever the sink has stored more."""

    def __init__(self, connection: psycopg.Connection[Any], reply_seconds: float = _REPLY_SECONDS) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._reply_seconds = reply_seconds
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._failure: EngineError | None = None
        self.server_end: Lsn | None = None

    def moved(self) -> None:
        """Tell the server now what is durable."""
        self._wanted.set()

    def run(
        self,
        slot: str,
        timeline: int,
        start: Lsn,
        sink: FeedSink,
        goes_on: Callable[[], bool],
    ) -> TimelineEnded | None:
        """Stream from `start` until the timeline ends or `goes_on`, asked several times a second, says no.

        Raises TransientError when the connection breaks, and what the sink or `goes_on` raises.
        """
        text = f"START_REPLICATION SLOT {slot} PHYSICAL {start} TIMELINE {timeline}"
        result = self._pgconn.exec_(text.encode())
        if result.status == pq.ExecStatus.TUPLES_OK:
            return _ended(result)
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise result_error(result, "START_REPLICATION")
        failpoint("feed.started")
        replies = threading.Thread(target=self._reply, args=(sink,), name="pgproof-wal-reply", daemon=True)
        replies.start()
        try:
            return self._receive(sink, goes_on)
        except psycopg.Error as error:
            raise lost(self._pgconn, "the WAL stream") from error
        finally:
            self._ended.set()
            self._wanted.set()
            replies.join()

    def _receive(self, sink: FeedSink, goes_on: Callable[[], bool]) -> TimelineEnded | None:
        poll = select.poll()
        poll.register(self._pgconn.socket, select.POLLIN)
        look = 0.0
        while True:
            if time.monotonic() >= look:
                look = time.monotonic() + _LOOK_SECONDS
                sink.check()
                if self._failure is not None:
                    raise self._failure
                if not goes_on():
                    self._send_status(sink)
                    return None
            if not sink.has_room(0):
                sink.has_room(_LOOK_SECONDS)
                continue
            with self._lock:
                nbytes, message = self._pgconn.get_copy_data(1)
            if nbytes > 0:
                self._take(message, sink)
            elif nbytes < 0:
                return self._finish()
            elif poll.poll(_LOOK_SECONDS * 1000):
                with self._lock:
                    self._pgconn.consume_input()

    def _take(self, message: memoryview, sink: FeedSink) -> None:
        received = decode(message)
        if isinstance(received, Keepalive):
            self.server_end = received.end
            if received.reply_wanted:
                self._wanted.set()
        else:
            sink.write(received.start, received.data)
            failpoint("feed.received")

    def _finish(self) -> TimelineEnded | None:
        """The server has ended the stream: by the end of the timeline, by an error, or because it stops."""
        # No reply may follow our own end of the COPY.
        self._ended.set()
        ended = None
        with self._lock:
            while (result := self._pgconn.get_result()) is not None:
                if result.status in (pq.ExecStatus.COPY_BOTH, pq.ExecStatus.COPY_IN):
                    self._pgconn.put_copy_end()
                    self._pgconn.flush()
                elif result.status == pq.ExecStatus.TUPLES_OK:
                    ended = _ended(result)
                elif result.status != pq.ExecStatus.COMMAND_OK:
                    raise result_error(result, "the WAL stream")
        if ended is None:
            raise TransientError(
                "the server ended the WAL stream",
                hint="it is being stopped or restarted; see its log if this stays",
            )
        return ended

    def _reply(self, sink: FeedSink) -> None:
        while not self._ended.is_set():
            try:
                self._send_status(sink)
            except psycopg.Error:
                self._failure = lost(self._pgconn, "the WAL stream")
                return
            failpoint("feed.replied")
            self._wanted.wait(self._reply_seconds)
            self._wanted.clear()

    def _send_status(self, sink: FeedSink) -> None:
        durable = sink.durable
        with self._lock:
            if not self._ended.is_set():
                status = encode_status(durable or Lsn(0), durable, time.time_ns() // 1000)
                self._pgconn.put_copy_data(status)
                self._pgconn.flush()


def _ended(result: pq.abc.PGresult) -> TimelineEnded:
    row = rows_of(result)[0]
    timeline, switch = row.get("next_tli"), row.get("next_tli_startpos")
    if timeline is None or switch is None:
        raise TransientError("the server ended the stream without saying why", hint="it is tried again")
    return TimelineEnded(int(timeline), Lsn.parse(switch.decode()))
