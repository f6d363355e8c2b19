"""What servers and programs print becomes errors that say who must act."""

from __future__ import annotations

import os

import pytest

from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.model.lsn import Lsn
from pgproof.model.server_log import (
    created_tablespaces,
    explain,
    failed_server,
    missing_tablespace,
    replay_position,
)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (
            'FATAL:  could not access file "timescaledb": No such file',
            PreconditionError,
            "brings timescaledb",
        ),
        ("FATAL:  resource manager with ID 130 not registered", PreconditionError, "preload"),
        ("FATAL:  database files are incompatible with server", PreconditionError, "PostgreSQL version"),
        ("FATAL:  database locale is incompatible with operating system", PreconditionError, "locale-gen"),
        (
            "FATAL:  could not restore image at 0/1 compressed with lz4 not supported by build, block 0",
            PreconditionError,
            "lz4",
        ),
        ("ERROR:  ICU is not supported in this build", PreconditionError, "ICU"),
        (
            "FATAL:  recovery ended before configured recovery target was reached",
            PreconditionError,
            "earlier",
        ),
        (
            'FATAL:  could not restore file "000000010000000000000003" from archive: child process exited'
            " with exit code 255",
            TransientError,
            "repository",
        ),
        ("PANIC:  could not write to file: No space left on device", PreconditionError, "free space"),
    ],
)
def test_what_a_server_says_becomes_an_error_with_a_hint(
    text: str, kind: type[EngineError], words: str
) -> None:
    error = explain(f"LOG:  starting\n2026-01-01 [1] {text}\nLOG:  shut down")
    assert type(error) is kind
    assert words in error.hint
    assert text in error.context["detail"]


def test_an_unknown_end_of_a_server_is_damage_and_quotes_its_log() -> None:
    assert explain("PANIC:  invalid page in block 7") is None
    error = failed_server("LOG:  starting\nPANIC:  invalid page in block 7")
    assert isinstance(error, DataError)
    assert "invalid page in block 7" in error.hint


def test_the_last_tablespace_that_is_missing_is_told_with_its_exact_name() -> None:
    name = os.fsdecode('Größe "x" '.encode() + b"\xff")
    log = b"".join(
        b'[9] FATAL:  directory "/%b" does not exist\n'
        b"[9] HINT:  Create this directory for the tablespace before restarting the server.\n"
        b'[9] CONTEXT:  WAL redo at 0/20000D8 for Tablespace/CREATE: %d "/%b"\n' % (each, oid, each)
        for oid, each in ((16384, b"first"), (16390, os.fsencode(name)))
    )
    assert missing_tablespace(log) == ("/" + name, 16390)
    assert missing_tablespace(b'FATAL:  directory "/x" does not exist\nLOG:  bye\n') is None


def test_created_tablespaces_are_read_from_a_dump_of_the_wal() -> None:
    dumped = (
        'rmgr: Tablespace  len (rec/tot): 38/ 38, tx: 0, lsn: 0/1, prev 0/0, desc: CREATE 16384 "/a "b""\n'
        "rmgr: Tablespace  len (rec/tot): 30/ 30, tx: 0, lsn: 0/2, prev 0/1, desc: DROP 16384\n"
    )
    assert created_tablespaces(dumped) == ['/a "b"']


def test_a_recovering_server_tells_how_far_it_is() -> None:
    log = (
        "2026-11-25 23:35:19.358 UTC [7] LOG:  redo starts at 0/3000788\n"
        "2026-11-25 23:35:20.358 UTC [7] LOG:  redo in progress, elapsed time: 1.00 s, current LSN: 0/3F00000\n"
        "2026-11-25 23:35:21.358 UTC [7] LOG:  redo in progress, elapsed time: 2.00 s, current LSN: 0/5000028\n"
    )
    assert replay_position(log) == Lsn.parse("0/5000028")
    assert replay_position("nothing yet") is None
