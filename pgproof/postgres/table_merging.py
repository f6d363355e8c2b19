"""Put rows of a rescued table back into the live one: all of them, in one transaction, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from pgproof.errors import ConflictError
from pgproof.failpoints import failpoint
from pgproof.model.table_names import TableName
from pgproof.model.table_rescue import Kind, Merge, refuse_merge
from pgproof.postgres.row_text import fix_settings, restore_settings
from pgproof.postgres.table_comparing import DIFFERENCES, TableComparer
from pgproof.postgres.table_placing import from_table, identifier

_LOCK_TIMEOUT = "10s"
_LOCKED = "55P03"


def lock_tables(connection: psycopg.Connection[Any], live: TableName, rescued: TableName) -> None:
    """Against writes, until the end of the transaction. Raises ConflictError if others hold them for long: whoever
    waits for a lock holds up all who come after it."""
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(_LOCK_TIMEOUT))
    try:
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(identifier(live)))
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(identifier(rescued)))
    except psycopg.Error as error:
        if error.sqlstate != _LOCKED:
            raise
        raise ConflictError(
            "others hold a lock on the table; nothing was merged",
            hint="run it again when their transactions have ended (pg_locks and pg_stat_activity show them)",
            table=live,
        ) from error
    connection.execute("SET LOCAL lock_timeout = 0")


def merge_rows(comparer: TableComparer, merge: Merge, written_by: Sequence[int]) -> tuple[int, int, int]:
    """Insert what is missing and overwrite what was changed, as `merge` says; both tables are locked.

    With `written_by` only changed rows that one of these transactions wrote last. Returns the rows inserted and
    updated, and how many of them differ still.
    """
    connection = comparer.connection
    fix_settings(connection)
    comparer.collect()
    refuse_merge(comparer.common, merge, list(comparer.violations()))
    if written_by:
        connection.execute(
            sql.SQL("DELETE FROM {} WHERE kind = 'changed' AND writer::text::bigint <> ALL ({})").format(
                sql.Identifier("pg_temp", DIFFERENCES), list(written_by)
            )
        )
    # Triggers of the user's run with what they are used to.
    restore_settings(connection)
    inserted = _insert(comparer) if Kind.MISSING in merge.kinds else 0
    failpoint("rescue.inserted")
    updated = _update(comparer) if Kind.CHANGED in merge.kinds else 0
    connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    failpoint("rescue.merged")
    return inserted, updated, _differ_still(comparer, merge) if comparer.live.triggers else 0


def _insert(comparer: TableComparer) -> int:
    common = comparer.common
    command = sql.SQL(
        "INSERT INTO {} ({}) {} SELECT {} FROM {} d JOIN {} ON r.ctid = d.backup_row WHERE d.kind = 'missing'"
    ).format(
        identifier(comparer.live.name),
        sql.SQL(", ").join(map(sql.Identifier, common.columns)),
        sql.SQL("OVERRIDING SYSTEM VALUE" if common.overriding else ""),
        sql.SQL(", ").join(map(comparer.value, common.columns)),
        sql.Identifier("pg_temp", DIFFERENCES),
        from_table(comparer.rescued, "r"),
    )
    return comparer.connection.execute(command).rowcount


def _update(comparer: TableComparer) -> int:
    common = comparer.common
    if not common.values:
        return 0
    command = sql.SQL(
        "UPDATE {} SET {} FROM {} d JOIN {} ON r.ctid = d.backup_row "
        "WHERE d.kind = 'changed' AND l.ctid = d.live_row AND l.tableoid = d.live_table"
    ).format(
        from_table(comparer.live, "l"),
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(column), comparer.value(column))
            for column in common.values
        ),
        sql.Identifier("pg_temp", DIFFERENCES),
        from_table(comparer.rescued, "r"),
    )
    return comparer.connection.execute(command).rowcount


def _differ_still(comparer: TableComparer, merge: Merge) -> int:
    """The rows that were to be put back and are not as they were, because a trigger had it otherwise."""
    after = f"{DIFFERENCES}_after"
    fix_settings(comparer.connection)
    comparer.collect(after)
    query = sql.SQL(
        "SELECT count(*) FROM {} a JOIN {} d ON d.backup_row = a.backup_row WHERE d.kind = ANY ({})"
    ).format(
        sql.Identifier("pg_temp", after),
        sql.Identifier("pg_temp", DIFFERENCES),
        [str(kind) for kind in merge.kinds],
    )
    row = comparer.connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])
