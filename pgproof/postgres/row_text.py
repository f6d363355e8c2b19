"""The text of a row, the same on every server and in every session.

It is what PostgreSQL's own output functions make of the columns, under settings that are fixed here. Output
functions are the type's, so no cast, function or operator of a user's takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

# Whatever the text of a value depends on, or what a search path could hide (PostgreSQL documentation, chapter 20.11).
_SETTINGS = {
    "client_encoding": "UTF8",
    "search_path": "pg_catalog",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "row_security": "off",
    "jit": "off",
}
_UNLIMITED = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}


def fix_settings(connection: psycopg.Connection[Any], *, unlimited: bool = True) -> None:
    """Until the end of the transaction that the connection is in. `row_security` off means: a row that a policy
    hides is an error, never a row less."""
    settings = {**_SETTINGS, **(_UNLIMITED if unlimited else {})}
    names = sql.SQL(", ").join(
        sql.SQL("pg_catalog.set_config({}, {}, true)").format(name, value) for name, value in settings.items()
    )
    connection.execute(sql.SQL("SELECT {}").format(names))


def restore_settings(connection: psycopg.Connection[Any]) -> None:
    """Those of the session again, for statements that run code of the user's, such as triggers; what a policy hides
    stays an error."""
    for name in _SETTINGS:
        if name != "row_security":
            connection.execute(sql.SQL("SET LOCAL {} TO DEFAULT").format(sql.Identifier(name)))


def columns_of(alias: str, columns: Sequence[str]) -> sql.Composed:
    """`"t"."a", "t"."b"`: always with the alias, because a column may have the name of anything."""
    return sql.SQL(", ").join(sql.Identifier(alias, column) for column in columns)


def row_text(expressions: sql.Composable) -> sql.Composed:
    """The text of these values; in "C", so that no collation makes different texts equal."""
    return sql.SQL('(ROW({})::text COLLATE pg_catalog."C")').format(expressions)
