"""What a cluster holds, as a value: two clusters with the same fingerprint have the same rows.

Sequences are left out: PostgreSQL logs them ahead, so a recovered one may rightly stand farther.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

Connect = Callable[[str], psycopg.Connection[Any]]
"""Opens a connection to the named database: `Cluster.connect`, for one."""

# The text of a row must not depend on settings that a database or role carries with it.
_SETTINGS = """
SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex';
SET extra_float_digits = 1; SET lc_monetary = 'C'; SET xmloption = 'content'; SET search_path = pg_catalog;
SET row_security = off;
"""
_DATABASES = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname"
_ROLES = "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY rolname"
_TABLESPACES = "SELECT spcname FROM pg_tablespace ORDER BY spcname"
_TABLES = """
SELECT n.nspname, c.relname, c.relpersistence = 'u'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence IN ('p', 'u')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'
ORDER BY 1, 2
"""
# The sum does not depend on the order of the rows, and counts a row twice that is there twice.
_ROWS = sql.SQL("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {} t")
_LARGE_OBJECTS = "SELECT oid FROM pg_largeobject_metadata ORDER BY oid"


def fingerprint(connect: Connect) -> dict[str, Any]:
    """Read every row of every database and return counts and hashes, for a cluster that is at rest.

    `{"roles": […], "tablespaces": […], "databases": {name: {"tables": {name: [rows, hash]},
    "unlogged": {name: [rows, hash]}, "large_objects": {oid: [bytes, crc]}}}}`
    """
    with connect("postgres") as connection:
        databases = _column(connection, _DATABASES)
        roles = _column(connection, _ROLES)
        tablespaces = _column(connection, _TABLESPACES)
    return {
        "roles": roles,
        "tablespaces": tablespaces,
        "databases": {name: database_fingerprint(connect, name) for name in databases},
    }


def database_fingerprint(connect: Connect, name: str) -> dict[str, Any]:
    """The fingerprint of one database."""
    found: dict[str, Any] = {"tables": {}, "unlogged": {}, "large_objects": {}}
    with connect(name) as connection:
        connection.execute(_SETTINGS)
        for schema, table, unlogged in connection.execute(_TABLES).fetchall():
            row = connection.execute(_ROWS.format(sql.Identifier(schema, table))).fetchone()
            assert row is not None
            found["unlogged" if unlogged else "tables"][f"{schema}.{table}"] = list(row)
        for oid in _column(connection, _LARGE_OBJECTS):
            row = connection.execute("SELECT lo_get(%s)", [oid]).fetchone()
            assert row is not None
            found["large_objects"][oid] = [len(row[0]), zlib.crc32(row[0])]
    return found


def as_restored(before: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint that a physical restore must have: unlogged tables are there, and empty."""
    after = copy.deepcopy(before)
    for database in after["databases"].values():
        database["unlogged"] = {table: [0, "0"] for table in database["unlogged"]}
    return after


def _column(connection: psycopg.Connection[Any], query: str) -> list[Any]:
    return [row[0] for row in connection.execute(query.encode()).fetchall()]
