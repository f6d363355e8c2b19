"""A thread that receives WAL through a temporary replication slot while a backup runs.

The slot comes first, so that the server keeps what the backup needs; it is temporary, so it ends with
our connection however we die. Replies go out while the store is slow: only the reading pauses.
"""

from __future__ import annotations

import os
import secrets
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import psycopg
from psycopg import pq

from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.postgres.connection import command, connect_replication, lost, result_error
from pgproof.postgres.wal_messages import Keepalive, decode, encode_status

# While the store is slow nothing is read, so a wanted reply is not seen: replies come often unasked, for
# servers whose wal_sender_timeout is a few seconds.
_STATUS_SECONDS = 2.0
_SLOT_PREFIX = "pgproof_backup_"
SLOTS_EXHAUSTED = "53400"  # configuration_limit_exceeded


class WalSink(Protocol):
    """Takes WAL in order."""

    def write(self, start: Lsn, data: memoryview) -> None: ...

    @property
    def durable(self) -> Lsn:
        """Everything below is stored."""

    @property
    def busy(self) -> bool:
        """Whether reading should pause until the store has caught up."""

    def check(self) -> None:
        """Raise what went wrong in the background."""


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """The answer to IDENTIFY_SYSTEM."""

    system_identifier: str
    timeline: int
    position: Lsn


def identify_system(pgconn: pq.abc.PGconn) -> SystemIdentity:
    row = command(pgconn, "IDENTIFY_SYSTEM", "IDENTIFY_SYSTEM")[0]
    values = [row.get(name) for name in ("systemid", "timeline", "xlogpos")]
    if None in values:
        raise PreconditionError(
            "this does not answer like a PostgreSQL server",
            hint="connect to the server itself: poolers do not pass the replication protocol",
        )
    system_identifier, timeline, position = (value.decode() for value in values if value is not None)
    return SystemIdentity(system_identifier, int(timeline), Lsn.parse(position))


def timeline_history(pgconn: pq.abc.PGconn, timeline: int) -> bytes:
    """The server's .history file of a timeline, without which it cannot be recovered; the first has none."""
    if timeline == 1:
        return b""
    (row,) = command(pgconn, f"TIMELINE_HISTORY {timeline}", f"TIMELINE_HISTORY {timeline}")
    return bytes(row.get("content") or b"")


def show(pgconn: pq.abc.PGconn, setting: str) -> str:
    """A server setting over a replication connection; `setting` is a name in our code, never input."""
    rows = command(pgconn, f"SHOW {setting}", f"SHOW {setting}")
    return (next(iter(rows[0].values())) or b"").decode("utf-8", "replace")


def create_temporary_slot(pgconn: pq.abc.PGconn, name: str) -> None:
    """Make a slot that reserves WAL and ends with the connection; `name` is made by our code, never input.

    Raises PreconditionError if the server allows no slots, TransientError if all are in use.
    """
    try:
        command(
            pgconn,
            f"CREATE_REPLICATION_SLOT {name} TEMPORARY PHYSICAL RESERVE_WAL",
            "creating a temporary replication slot",
        )
    except EngineError as error:
        if int(show(pgconn, "max_replication_slots")) == 0:
            raise no_slots_allowed() from error
        if error.context.get("sqlstate") == SLOTS_EXHAUSTED:
            raise slots_exhausted() from error
        raise


def no_slots_allowed() -> PreconditionError:
    return PreconditionError(
        "the server allows no replication slots (max_replication_slots is 0)",
        hint="set max_replication_slots = 10 in postgresql.conf and restart the server",
    )


def slots_exhausted() -> TransientError:
    return TransientError(
        "all of the server's replication slots are in use (max_replication_slots)",
        hint="drop slots that nobody needs (SELECT slot_name FROM pg_replication_slots WHERE NOT active), "
        "or raise max_replication_slots and restart the server",
    )


class WalStream:
    """A running stream. `failure` is set once it has broken."""

    def __init__(
        self, connection: psycopg.Connection[tuple[object, ...]], sink: WalSink, claim_flush: bool
    ) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._sink = sink
        self._claim_flush = claim_flush
        self._stop = threading.Event()
        # Written to, it ends the waiting for the server: a backup does not wait for what its quiet server says next.
        self._waker: tuple[int, int] | None = None
        self._written = Lsn(0)
        self.failure: EngineError | None = None
        self._thread = threading.Thread(target=self._run, name="pgproof-wal", daemon=True)

    def start(self, slot: str, timeline: int, position: Lsn) -> None:
        self._written = position
        text = f"START_REPLICATION SLOT {slot} PHYSICAL {position} TIMELINE {timeline}"
        result = self._pgconn.exec_(text.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise result_error(result, "START_REPLICATION")
        self._waker = os.pipe()
        self._thread.start()

    def check(self) -> None:
        """Raise what broke the stream."""
        if self.failure is not None:
            raise self.failure
        self._sink.check()

    def stop(self) -> None:
        self._stop.set()
        if self._waker is not None:
            os.write(self._waker[1], b"!")
            self._thread.join()
            for fd in self._waker:
                os.close(fd)
            self._waker = None

    def _run(self) -> None:
        try:
            self._receive()
        except EngineError as error:
            self.failure = error
        except psycopg.Error:
            self.failure = lost(self._pgconn, "the WAL stream")
        except BaseException as error:
            # Whatever it is, the main thread must learn that the stream has ended.
            self.failure = DataError("the WAL stream ended by a defect", reason=repr(error))
            raise

    def _receive(self) -> None:
        poll = select.poll()
        poll.register(self._pgconn.socket, select.POLLIN)
        if self._waker is not None:
            poll.register(self._waker[0], select.POLLIN)
        next_status = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= next_status:
                self._send_status()
                next_status = time.monotonic() + _STATUS_SECONDS
            if self._sink.busy:
                self._stop.wait(0.05)
                continue
            nbytes, message = self._pgconn.get_copy_data(1)
            if nbytes > 0:
                received = decode(message)
                if isinstance(received, Keepalive):
                    if received.reply_wanted:
                        next_status = 0.0
                else:
                    self._sink.write(received.start, received.data)
                    self._written = received.start + len(received.data)
                    failpoint("wal.received")
            elif nbytes == 0:
                if poll.poll(200):
                    self._pgconn.consume_input()
            else:
                raise TransientError(
                    "the server ended the WAL stream",
                    hint="run the backup again; the server was stopped, promoted, or has removed the slot",
                )

    def _send_status(self) -> None:
        durable = self._sink.durable if self._claim_flush else None
        self._pgconn.put_copy_data(encode_status(self._written, durable, time.time_ns() // 1000))
        self._pgconn.flush()
        failpoint("wal.confirmed")


def reserved_from(pgconn: pq.abc.PGconn, slot: str, otherwise: Lsn) -> Lsn:
    """From where on a slot keeps WAL; `slot` is a name of our code."""
    (row,) = command(pgconn, f"READ_REPLICATION_SLOT {slot}", "READ_REPLICATION_SLOT")
    position = row.get("restart_lsn")
    return Lsn.parse(position.decode()) if position else otherwise


@contextmanager
def stream_wal(
    config: PostgresConfig, sink_for: SinkFactory, *, from_reserved: bool = False
) -> Iterator[tuple[WalStream, SystemIdentity]]:
    """Reserve WAL with a temporary slot, then stream it from the current segment on.

    `sink_for(identity, start, segment_size)` makes the sink; streaming begins at the segment boundary
    below the server's position, which the slot keeps. The slot is gone when the block ends.
    A backup of a standby begins at its last restart point, which lies behind it: with `from_reserved` streaming
    begins where the slot does, which is that point.
    """
    connection = connect_replication(config, name="pgproof_wal")
    try:
        pgconn = connection.pgconn
        segment_size = size_in_bytes(show(pgconn, "wal_segment_size"))
        standbys = show(pgconn, "synchronous_standby_names")
        slot = f"{_SLOT_PREFIX}{secrets.token_hex(6)}"
        failpoint("wal.connected")
        create_temporary_slot(pgconn, slot)
        failpoint("wal.slot")
        identity = identify_system(pgconn)
        first = reserved_from(pgconn, slot, identity.position) if from_reserved else identity.position
        start = first.segment_start(segment_size)
        # A flush position would make us a candidate where the list has "*": commits would wait for us.
        claim_flush = "*" not in standbys and "pgproof" not in standbys
        stream = WalStream(connection, sink_for(identity, start, segment_size), claim_flush)
        stream.start(slot, identity.timeline, start)
        failpoint("wal.streaming")
        try:
            yield stream, identity
            failpoint("wal.ending")
        finally:
            stream.stop()
    finally:
        connection.close()


class SinkFactory(Protocol):
    def __call__(self, identity: SystemIdentity, start: Lsn, segment_size: int) -> WalSink: ...


_UNITS = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "B": 1}


def size_in_bytes(text: str) -> int:
    """`16MB` as SHOW prints it, in bytes."""
    digits = text.rstrip("kMGB")
    unit = text[len(digits) :] or "B"
    if not digits.isdigit() or unit not in _UNITS:
        raise DataError("the server told a size this version cannot read", size=text)
    return int(digits) * _UNITS[unit]
