"""Fingerprints of tables, computed in the server: no row leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgproof.model.fingerprints import (
    DatabaseFingerprint,
    FingerprintComparison,
    Name,
    TableFingerprint,
    UnreadTable,
)
from pgproof.model.fingerprints import compare_databases as compare
from pgproof.model.job import Job
from pgproof.postgres.row_text import columns_of, fix_settings, row_text
from pgproof.postgres.stopping import stopping

# A table whose rows take more than this is hashed by a sample, if it has a primary key to choose by.
HASHED_BYTES = 4 << 30

_TABLES = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text,
       c.relkind = 'm' AND NOT c.relispopulated,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
       c.relfilenode::bigint,
       coalesce(pg_table_size(c.oid), 0),
       (SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'),
       (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_index i
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
        WHERE i.indrelid = c.oid AND i.indisprimary)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence = 'p'
  AND (c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
       OR c.oid = 'pg_catalog.pg_largeobject'::regclass AND EXISTS (SELECT FROM pg_largeobject_metadata))
ORDER BY 2, 3
"""
_LOCK_TIMEOUT = "60s"
# Errors of a table, not of the connection or of the machine.
_OF_A_TABLE = ("22", "42", "54", "55", "XX", "0A", "53200")


@dataclass(frozen=True, slots=True)
class _Table:
    oid: int
    schema: str
    name: str
    unpopulated: bool
    readable: bool
    filenode: int
    size: int
    columns: list[str]
    primary_key: list[str] | None

    @property
    def key(self) -> Name:
        return self.schema, self.name

    def one_in(self, hashed_bytes: int) -> int:
        rate = 1
        while self.primary_key and self.size // rate > hashed_bytes:
            rate *= 2
        return rate


def fingerprint_database(
    connection: psycopg.Connection[Any],
    job: Job,
    *,
    rates: Mapping[Name, int] | None = None,
    hashed_bytes: int = HASHED_BYTES,
) -> DatabaseFingerprint:
    """The fingerprint of the database of `connection`, in the transaction that it is in.

    Partitions stand for themselves. Virtual columns, unlogged and temporary tables, sequences and system
    catalogs are left out. `rates` are those of the fingerprint that this one will be compared with; without
    them large tables are sampled. Raises EngineError if the server does not answer.
    """
    with stopping(job, "a fingerprint", connection), connection.transaction():
        fix_settings(connection)
        # Whoever waits for a lock holds up all who come after it.
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(_LOCK_TIMEOUT))
        row = connection.execute("SELECT current_database(), getdatabaseencoding()").fetchone()
        assert row is not None
        tables = [_Table(*found) for found in connection.execute(_TABLES).fetchall()]
        read, unread = list[TableFingerprint](), list[UnreadTable]()
        done, total = 0, sum(table.size for table in tables)
        for table in tables:
            job.checkpoint()
            job.report(f"comparing database {row[0]}", done, total)
            one_in = rates.get(table.key, 1) if rates is not None else table.one_in(hashed_bytes)
            found = _fingerprint(connection, table, one_in)
            if isinstance(found, TableFingerprint):
                read.append(found)
            elif found is not None:
                unread.append(found)
            done += table.size
    return DatabaseFingerprint(row[0], row[1], tuple(read), tuple(unread))


def compare_connections(
    source: psycopg.Connection[Any], copy: psycopg.Connection[Any], job: Job
) -> FingerprintComparison:
    """Compare two databases as the transactions of both connections see them."""
    ours = fingerprint_database(source, job)
    return compare(ours, fingerprint_database(copy, job, rates=ours.rates()))


def partition_roots(connection: psycopg.Connection[Any]) -> dict[Name, Name]:
    """For each partition the table that it is a part of in the end."""
    rows = connection.execute(
        """
        SELECT n.nspname::text, c.relname::text, m.nspname::text, r.relname::text
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_class r ON r.oid = pg_partition_root(c.oid) JOIN pg_namespace m ON m.oid = r.relnamespace
        WHERE c.relispartition AND c.relkind = 'r'
        """
    ).fetchall()
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def _fingerprint(
    connection: psycopg.Connection[Any], table: _Table, one_in: int
) -> TableFingerprint | UnreadTable | None:
    if table.unpopulated:
        return None
    if not table.readable:
        return UnreadTable(*table.key, "the role has no right to read it")
    if one_in > 1 and not table.primary_key:
        return UnreadTable(*table.key, "it was sampled by a primary key that it has not")
    whole = row_text(columns_of("t", table.columns))
    chosen: sql.Composable = sql.SQL("")
    if one_in > 1:
        chosen = sql.SQL(" FILTER (WHERE hashtextextended({}, 1) & {} = 0)").format(
            row_text(columns_of("t", table.primary_key or [])), sql.Literal(one_in - 1)
        )
    query = sql.SQL(
        "SELECT count(*), coalesce(sum(hashtextextended({}, 0)){}, 0)::text FROM ONLY {} t"
    ).format(whole, chosen, sql.Identifier(*table.key))
    try:
        with connection.transaction():
            row = connection.execute(query).fetchone()
            assert row is not None
            # TRUNCATE and what rewrites a table do not keep the rows that an older snapshot sees.
            now = connection.execute("SELECT pg_relation_filenode(%s::oid)::bigint", [table.oid]).fetchone()
    except psycopg.Error as error:
        if not (error.sqlstate or "").startswith(_OF_A_TABLE):
            raise
        return UnreadTable(*table.key, error.diag.message_primary or str(error).partition("\n")[0])
    if table.filenode and now != (table.filenode,):
        return UnreadTable(*table.key, "it was truncated or rewritten meanwhile")
    return TableFingerprint(*table.key, row[0], row[1], one_in)
