"""Bring a table from one server into another under a new name: columns, rows, and what stands by itself.

All of it is one transaction of the caller's: whatever happens, there is the whole table or none.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.job import Job
from pgproof.model.table_names import TableName
from pgproof.model.table_rescue import LeftOut
from pgproof.model.table_shape import Column, TableShape
from pgproof.postgres.row_text import columns_of
from pgproof.postgres.stopping import sql_error

_UNKNOWN = "42704"
_OF_A_COMMAND = ("0A", "22", "23", "2B", "42", "55", "P0")


def identifier(name: TableName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.table)


def from_table(shape: TableShape, alias: str) -> sql.Composed:
    """A FROM item with the rows of this table, not those of tables that inherit from it."""
    only = sql.SQL("" if shape.partitioned else "ONLY ")
    return sql.SQL("{}{} {}").format(only, identifier(shape.name), sql.Identifier(alias))


def create_table(live: psycopg.Connection[Any], name: TableName, shape: TableShape, comment: str) -> None:
    """With plain columns of the same types: what was computed or an identity becomes a value like any other."""
    columns = sql.SQL(", ").join(map(_column, shape.columns))
    command = sql.SQL("CREATE TABLE {} ({})").format(identifier(name), columns)
    try:
        # Prepared, so that no text out of a catalog can bring a second command along.
        live.execute(command, prepare=True)
    except psycopg.Error as error:
        if error.sqlstate == _UNKNOWN:
            raise PreconditionError(
                "a type or a collation of the table does not exist in this database",
                hint="create it, such as with CREATE EXTENSION or CREATE TYPE, and rescue the table then",
                reason=error.diag.message_primary,
                table=shape.name,
            ) from error
        raise
    live.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(identifier(name), comment))


def _column(column: Column) -> sql.Composed:
    return sql.SQL("{} {}{}{}").format(
        sql.Identifier(column.name),
        sql.SQL(column.type),  # as the server's own format_type wrote it
        sql.SQL(f" COLLATE {column.collation}" if column.collation else ""),
        sql.SQL(" NOT NULL" if column.not_null else ""),
    )


def copy_rows(
    source: psycopg.Connection[Any],
    shape: TableShape,
    live: psycopg.Connection[Any],
    name: TableName,
    job: Job,
) -> int:
    """Stream all rows; return how many there are."""
    names = [column.name for column in shape.columns]
    read = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(
        columns_of("t", names), from_table(shape, "t")
    )
    write = sql.SQL("COPY {} ({}) FROM STDIN").format(
        identifier(name), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    # Encoded before a change of the encoding, which is for the rows.
    reading, writing = source.cursor(), live.cursor()
    commands = read.as_bytes(source), write.as_bytes(live)
    encoding = source.execute("SELECT getdatabaseencoding()").fetchone()
    if encoding == ("SQL_ASCII",):
        # Bytes that are text in no encoding: nothing may convert or check them.
        for connection in (source, live):
            connection.execute("SET LOCAL client_encoding TO 'SQL_ASCII'")
    done = 0
    with writing.copy(commands[1]) as into, reading.copy(commands[0]) as rows:
        for data in rows:
            into.write(data)
            done += len(data)
            job.checkpoint()
            job.report("copying the table", done)
            failpoint("rescue.copying")
    live.execute("SET LOCAL client_encoding TO 'UTF8'")
    return writing.rowcount


def add_the_rest(live: psycopg.Connection[Any], name: TableName, shape: TableShape) -> list[LeftOut]:
    """Keys, indexes, checks and defaults, as far as they stand by themselves; returns the others."""
    left_out = []
    for addition in shape.additions:
        if not addition.before:
            left_out.append(LeftOut(addition.what, addition.statement))
            continue
        before, after = sql.SQL(addition.before), sql.SQL(addition.after)
        try:
            with live.transaction():
                live.execute(before + identifier(name) + after, prepare=True)
        except psycopg.Error as error:
            if not (error.sqlstate or "").startswith(_OF_A_COMMAND):
                raise
            reason = sql_error(error, addition.what).context["reason"]
            left_out.append(LeftOut(addition.what, addition.statement, reason))
    live.execute(sql.SQL("ANALYZE {}").format(identifier(name)))
    return left_out
