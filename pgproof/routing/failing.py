"""What a query's error means: the caller's own, or the node's."""

from __future__ import annotations

from typing import Any

import psycopg

# Of PostgreSQL's documentation, appendix A: the server ends the session or does not take it (57P01 to 57P03), and a standby
# cancels a query whose rows its replay has to remove (40001, 40P01; "Handling Query Conflicts"). A read in one statement meets
# neither otherwise.
_GOING_AWAY = ("57P01", "57P02", "57P03")
_CONFLICT = ("40001", "40P01")


def is_lost(connection: psycopg.AsyncConnection[Any], error: psycopg.Error) -> bool:
    """Whether the connection broke, so that no answer came."""
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return True  # libpq's own: no answer of the server's
    return connection.closed or error.sqlstate in _GOING_AWAY or (error.sqlstate or "").startswith("08")


def may_succeed_elsewhere(connection: psycopg.AsyncConnection[Any], error: psycopg.Error) -> bool:
    """Of a single read that has returned nothing."""
    return is_lost(connection, error) or error.sqlstate in _CONFLICT


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
