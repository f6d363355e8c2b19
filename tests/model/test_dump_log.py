"""What pg_dump and pg_restore say, and who must act."""

from __future__ import annotations

import pytest

from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.model.dump_log import NotRestored, dump_failure, dump_warnings, restore_failure

DUMP = [
    (
        'pg_dump: error: query failed: ERROR:  query would be affected by row-level security policy for table "t"',
        PreconditionError,
        "BYPASSRLS",
    ),
    (
        "pg_dump: error: query failed: ERROR:  permission denied for table t",
        PreconditionError,
        "pg_read_all_data",
    ),
    (
        "pg_dump: error: query failed: ERROR:  permission denied for large object 4711",
        PreconditionError,
        "LARGE OBJECT 4711",
    ),
    (
        "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout",
        TransientError,
        "again",
    ),
    (
        'pg_dump: error: could not obtain lock on relation "public.t"\nThis usually means that someone requested',
        TransientError,
        "again",
    ),
    (
        "pg_dump: error: aborting because of server version mismatch\n"
        "pg_dump: detail: server version: 18.6; pg_dump version: 15.20",
        PreconditionError,
        "PostgreSQL 18.6",
    ),
    ('pg_dump: error: no matching tables were found for pattern "x*"', PreconditionError, "--table"),
    (
        'pg_dump: error: Dumping the contents of table "t" failed: PQgetResult() failed.\n'
        "pg_dump: detail: Error message from server: ERROR:  invalid page in block 3 of relation base/5/16384",
        DataError,
        "log",
    ),
    (
        'pg_dump: error: connection to server at "h" (10.0.0.1), port 5432 failed: FATAL:  sorry, too many clients already',
        TransientError,
        "dump_jobs",
    ),
    ("pg_dump: error: query failed: server closed the connection unexpectedly", TransientError, "again"),
    ("pg_dump: error: could not write to file: No space left on device", PreconditionError, "free space"),
    ("pg_dump: error: something never heard of", PreconditionError, "never heard of"),
]
RESTORE = [
    ('ERROR:  extension "postgis" is not available', PreconditionError, "install the extension postgis"),
    ('ERROR:  role "app" does not exist', NotRestored, "create the role app"),
    ('ERROR:  could not access file "$libdir/postgis-3": No such file', PreconditionError, "postgis-3"),
    ('ERROR:  relation "t" already exists', NotRestored, "empty database"),
    ("pg_restore: error: unsupported version (1.16) in file header", PreconditionError, "later one"),
    ("pg_restore: error: something never heard of", NotRestored, "never heard of"),
]


@pytest.mark.parametrize(("text", "kind", "hint"), DUMP)
def test_a_failed_dump_says_who_must_act(text: str, kind: type[EngineError], hint: str) -> None:
    error = dump_failure("pg_dump", 1, text)
    assert type(error) is kind and hint in error.hint


@pytest.mark.parametrize(("text", "kind", "hint"), RESTORE)
def test_a_failed_restore_says_who_must_act(text: str, kind: type[EngineError], hint: str) -> None:
    error = restore_failure(1, f"pg_restore: error: could not execute query: {text}")
    assert type(error) is kind and hint in error.hint


def test_warnings_are_told_once_and_harmless_ones_are_not() -> None:
    said = (
        "pg_dump: warning: subscriptions not dumped because current user is not a superuser\n" * 2
        + "pg_dump: warning: there are circular foreign-key constraints on this table:\npg_dump: detail: hens\n"
    )
    (finding,) = dump_warnings(said)
    assert finding.message == "subscriptions not dumped because current user is not a superuser"
