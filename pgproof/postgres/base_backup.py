"""BASE_BACKUP as a stream of events (PostgreSQL documentation, "Streaming Replication Protocol").

The protocol of PostgreSQL 15 and later: one COPY stream in which `n` begins an archive, `d` carries
data, `m` begins the server's manifest and `p` tells the progress.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import pq

from pgproof.errors import DataError
from pgproof.failpoints import failpoint
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.postgres.connection import lost, result_error, rows_of


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """`label` is shown in backup_label; `max_rate` is in kilobytes a second.

    With `incremental` only blocks are sent that changed since the backup whose manifest was uploaded.
    """

    label: str
    fast_checkpoint: bool = True
    max_rate: int | None = None
    incremental: bool = False

    def command(self) -> str:
        checkpoint = "fast" if self.fast_checkpoint else "spread"
        options = [
            f"LABEL '{self.label}'",
            "PROGRESS true",
            f"CHECKPOINT '{checkpoint}'",
            # The WAL comes by our own stream, and whether it is complete is judged by us.
            "WAL false",
            "WAIT false",
            "TABLESPACE_MAP true",
            "MANIFEST 'yes'",
            # Cheap in hardware on both sides; it guards the way from the server's read to our hands.
            "MANIFEST_CHECKSUMS 'CRC32C'",
            "VERIFY_CHECKSUMS true",
        ]
        if self.incremental:
            options.append("INCREMENTAL true")
        if self.max_rate is not None:
            options.append(f"MAX_RATE {self.max_rate}")
        return f"BASE_BACKUP ({', '.join(options)})"


@dataclass(frozen=True, slots=True)
class SourceTablespace:
    oid: int
    location: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Started:
    """The backup has a start: `size_bytes` is the server's estimate of everything."""

    lsn: Lsn
    timeline: int
    tablespaces: tuple[SourceTablespace, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ArchiveBegins:
    """The next data belongs to this tablespace; an oid of 0 is the data directory itself."""

    oid: int
    location: bytes


@dataclass(frozen=True, slots=True)
class ManifestBegins:
    """The next data is the server's manifest."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The backup is complete on the server's side.

    `checksum_failure` is the server's message if it found damaged pages: everything was sent all the same.
    """

    lsn: Lsn
    timeline: int
    checksum_failure: str = ""


Event = Started | ArchiveBegins | ManifestBegins | Ended | memoryview


def stream_base_backup(pgconn: pq.abc.PGconn, options: BackupOptions, job: Job) -> Iterator[Event]:
    """Run BASE_BACKUP and yield what comes, ending with Ended.

    Only a stream that is complete to its last message yields Ended. Raises TransientError if the
    connection is lost, another EngineError if the server refuses, Cancelled if the job is stopped.
    """
    pgconn.send_query(options.command().encode())
    failpoint("base.asked")
    start = _rows(pgconn, job, "the start of the backup")
    listed = _rows(pgconn, job, "the list of tablespaces")
    failpoint("base.started")
    yield _started(start, listed)
    result = _result(pgconn, job)
    if result is None or result.status != pq.ExecStatus.COPY_OUT:
        raise result_error(result, "the base backup") if result else lost(pgconn, "the base backup")
    failpoint("base.copying")
    yield from _copy(pgconn, job)
    failpoint("base.copied")
    end = _rows(pgconn, job, "the end of the backup")
    lsn, timeline = _position(end[0])
    failure = ""
    result = _result(pgconn, job)
    if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
        sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
        # ERRCODE_DATA_CORRUPTED comes after all data and the end position: page checksums that failed.
        if sqlstate != b"XX001":
            raise result_error(result, "the base backup")
        failure = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode("utf-8", "replace")
    elif result is None or result.status != pq.ExecStatus.COMMAND_OK:
        raise lost(pgconn, "the end of the base backup")
    while _result(pgconn, job) is not None:
        pass
    if pgconn.transaction_status != pq.TransactionStatus.IDLE:
        raise lost(pgconn, "the end of the base backup")
    failpoint("base.ended")
    yield Ended(lsn, timeline, failure)


def _copy(pgconn: pq.abc.PGconn, job: Job) -> Iterator[Event]:
    looked = False
    while True:
        nbytes, message = pgconn.get_copy_data(1)
        if nbytes > 0:
            looked = False
            kind = message[0]
            if kind == 0x64:  # d
                failpoint("base.data")
                yield message[1:]
            elif kind == 0x70:  # p
                job.checkpoint()
            elif kind == 0x6E:  # n
                name, location, *_rest = bytes(message[1:]).split(b"\0")
                failpoint("base.archive")
                yield ArchiveBegins(_oid_of(name), location)
            elif kind == 0x6D:  # m
                failpoint("base.manifest")
                yield ManifestBegins()
            else:
                raise DataError("the server sent a message this version does not know", kind=chr(kind))
        elif nbytes == 0:
            # Mostly more has come meanwhile, and to take it costs less than to ask first whether it is there.
            if looked:
                _wait(pgconn, job)
            _consume(pgconn, "the base backup")
            looked = not looked
        else:
            return


def _oid_of(name: bytes) -> int:
    """`base.tar` is the data directory, `<oid>.tar` a tablespace."""
    stem = name.removesuffix(b".tar")
    if stem == b"base":
        return 0
    if not stem.isdigit():
        raise DataError(
            "the server sent an archive of an unexpected name", name=name.decode("utf-8", "replace")
        )
    return int(stem)


def _started(start: list[dict[str, bytes | None]], listed: list[dict[str, bytes | None]]) -> Started:
    lsn, timeline = _position(start[0])
    tablespaces = []
    total = 0
    for row in listed:
        size = int(row["size"] or b"0") * 1024
        total += size
        if row["spcoid"] is not None:
            tablespaces.append(SourceTablespace(int(row["spcoid"]), row["spclocation"] or b"", size))
    return Started(lsn, timeline, tuple(tablespaces), total)


def _position(row: dict[str, bytes | None]) -> tuple[Lsn, int]:
    values = list(row.values())
    if len(values) < 2 or values[0] is None or values[1] is None:
        raise DataError("the server told no position")
    return Lsn.parse(values[0].decode()), int(values[1])


def _rows(pgconn: pq.abc.PGconn, job: Job, what: str) -> list[dict[str, bytes | None]]:
    result = _result(pgconn, job)
    if result is None:
        raise lost(pgconn, what)
    if result.status != pq.ExecStatus.TUPLES_OK:
        raise result_error(result, "the base backup")
    rows = rows_of(result)
    if not rows:
        raise DataError("the server's answer is empty", what=what)
    return rows


def _result(pgconn: pq.abc.PGconn, job: Job) -> pq.abc.PGresult | None:
    pgconn.flush()
    while pgconn.is_busy():
        _wait(pgconn, job)
        _consume(pgconn, "the base backup")
    return pgconn.get_result()


def _wait(pgconn: pq.abc.PGconn, job: Job) -> None:
    """Wait for the server, a second at most between looks at the job."""
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    while not poll.poll(500):
        job.checkpoint()


def _consume(pgconn: pq.abc.PGconn, what: str) -> None:
    try:
        pgconn.consume_input()
    except psycopg.Error as error:
        raise lost(pgconn, what) from error
