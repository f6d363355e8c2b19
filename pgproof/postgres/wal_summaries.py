"""What the server's WAL summaries say, asked over an ordinary connection (PostgreSQL 17 and later)."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import pq

from pgproof.errors import EngineError, TransientError
from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.model.relation_files import Relation
from pgproof.model.summaries import (
    LimitBlocks,
    SummariesUnusable,
    SummarizingServer,
    Summary,
    overlapping,
)
from pgproof.postgres.connection import connect, lost, query, result_error
from pgproof.postgres.wal_stream import size_in_bytes

_Connection = psycopg.Connection[tuple[Any, ...]]

_SERVER = """
SELECT (SELECT system_identifier::text FROM pg_control_system()), pg_is_in_recovery(),
       (SELECT timeline_id FROM pg_control_checkpoint()),
       CASE WHEN pg_is_in_recovery() THEN '0/0' ELSE pg_current_wal_flush_lsn()::text END,
       current_setting('summarize_wal', true), current_setting('wal_log_hints'), current_setting('segment_size')
"""
_SUMMARIES = "SELECT tli, start_lsn::text, end_lsn::text FROM pg_available_wal_summaries()"
_LIMITS = """
SELECT reltablespace::bigint, reldatabase::bigint, relfilenode::bigint, relforknumber, relblocknumber
FROM pg_wal_summary_contents(%s, %s::pg_lsn, %s::pg_lsn) WHERE is_limit_block
"""


@contextlib.contextmanager
def ordinary_connection(config: PostgresConfig) -> Iterator[_Connection]:
    """Raises SummariesUnusable where the role may not connect to a database."""
    try:
        connection = connect(config)
    except EngineError as error:
        raise SummariesUnusable(f"no ordinary connection to a database ({error.message})") from error
    with contextlib.closing(connection):
        yield connection


def summarizing_server(connection: _Connection, history: bytes) -> SummarizingServer:
    """`history` is the server's timeline history as the replication connection gave it."""
    (row,) = query(connection, _SERVER)
    identifier, in_recovery, timeline, position, summarize, hints, segment = row
    return SummarizingServer(
        system_identifier=str(identifier),
        in_recovery=bool(in_recovery),
        timeline=int(timeline),
        timeline_history=history,
        position=Lsn.parse(position),
        summarizes=summarize == "on",
        log_hints=hints == "on",
        segment_bytes=size_in_bytes(segment),
    )


def limit_blocks(connection: _Connection, timeline: int, start: Lsn, end: Lsn) -> LimitBlocks:
    """The limit blocks of the range. Raises SummariesUnusable unless summaries cover all of it."""
    summaries = [
        Summary(int(tli), Lsn.parse(begin), Lsn.parse(stop))
        for tli, begin, stop in query(connection, _SUMMARIES)
    ]
    found = LimitBlocks()
    for summary in overlapping(summaries, timeline, start, end):
        try:
            rows = query(connection, _LIMITS, summary.timeline, str(summary.start), str(summary.end))
        except TransientError:
            raise
        except EngineError as error:
            # Such as one that was removed just now, because it is older than wal_summary_keep_time.
            raise SummariesUnusable(f"a WAL summary cannot be read ({error})") from error
        for tablespace, database, number, fork, block in rows:
            found.add(Relation(int(tablespace), int(database), int(number)), int(fork), int(block))
    return found


def upload_manifest(pgconn: pq.abc.PGconn, pieces: Iterator[bytes]) -> None:
    """Tell the server which backup the next one builds on: by that one's own manifest, as it was sent.

    Raises SummariesUnusable if the server does not take it.
    """
    result = pgconn.exec_(b"UPLOAD_MANIFEST")
    if result.status != pq.ExecStatus.COPY_IN:
        raise SummariesUnusable(f"the server takes no manifest ({result_error(result, 'UPLOAD_MANIFEST')})")
    try:
        for piece in pieces:
            pgconn.put_copy_data(piece)
            _flush(pgconn)
        pgconn.put_copy_end()
        _flush(pgconn)
    except psycopg.Error as error:
        raise lost(pgconn, "the upload of the base's manifest") from error
    failure = None
    while (ending := pgconn.get_result()) is not None:
        if ending.status != pq.ExecStatus.COMMAND_OK:
            failure = result_error(ending, "UPLOAD_MANIFEST")
    if isinstance(failure, TransientError):
        raise failure
    if failure is not None:
        raise SummariesUnusable(f"the server refuses the base's manifest ({failure.context.get('reason')})")


def _flush(pgconn: pq.abc.PGconn) -> None:
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLOUT | select.POLLIN)
    while pgconn.flush() == 1:
        poll.poll(500)
        pgconn.consume_input()
