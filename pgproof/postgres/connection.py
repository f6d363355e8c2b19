"""Connections to a PostgreSQL server, and its errors in the engine's words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.model.config import PostgresConfig
from pgproof.postgres.refusals import connection_error, without_secrets

# Names in pg_stat_activity. "pgproof_…" matches no sensible entry of synchronous_standby_names but `*`.
APPLICATION_NAME = "pgproof"

DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "90000",
    "client_encoding": "UTF8",
}


def connect(
    config: PostgresConfig, *, dbname: str | None = None, name: str = APPLICATION_NAME
) -> psycopg.Connection[tuple[Any, ...]]:
    """An ordinary connection in autocommit mode. Raises EngineError with the reason in our words."""
    return _open(config, _ordinary(config, dbname, name))


async def connect_async(
    config: PostgresConfig, *, name: str = APPLICATION_NAME, **parameters: str
) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """An ordinary connection in autocommit mode for a caller in an event loop; `parameters` are libpq's and win.

    Raises EngineError with the reason in our words.
    """
    overrides = {**_ordinary(config, None, name), **parameters}
    try:
        return await psycopg.AsyncConnection.connect(conninfo(config, overrides), autocommit=True)
    except (psycopg.OperationalError, psycopg.ProgrammingError, UnicodeError) as error:
        raise refused(error, config) from error


async def connect_within(
    seconds: float, config: PostgresConfig, **parameters: str
) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """As `connect_async`; TransientError if it takes longer, whatever the server, its kernel or the network do meanwhile."""
    try:
        async with asyncio.timeout(seconds):
            return await connect_async(config, **parameters)
    except TimeoutError as error:
        raise TransientError(
            "the server lets nobody in",
            hint="see whether it is overloaded, frozen or cut off",
            server=str(config),
            seconds=seconds,
        ) from error


def connect_replication(
    config: PostgresConfig, *, name: str = APPLICATION_NAME
) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection for physical replication. Raises EngineError with the reason in our words."""
    # A physical walsender belongs to no database; with a name here pg_hba.conf would be searched for
    # the database instead of the keyword "replication".
    return _open(config, {"replication": "true", "dbname": "replication", "application_name": name})


def conninfo(config: PostgresConfig, overrides: Mapping[str, str]) -> str:
    """libpq's connection string, with time limits of ours where `config` has none. Holds the password."""
    return make_conninfo("", **{**DEFAULTS, **config.parameters(), **overrides})


def _ordinary(config: PostgresConfig, dbname: str | None, name: str) -> dict[str, str]:
    overrides = {"dbname": dbname} if dbname else {}
    if not dbname and not config.database and "service" not in config.options:
        overrides["dbname"] = "postgres"
    return {**overrides, "application_name": name}


def _open(config: PostgresConfig, overrides: dict[str, str]) -> psycopg.Connection[tuple[Any, ...]]:
    try:
        return psycopg.connect(conninfo(config, overrides), autocommit=True)
    except (psycopg.OperationalError, psycopg.ProgrammingError, UnicodeError) as error:
        raise refused(error, config, replication="replication" in overrides) from error


def refused(error: Exception, config: PostgresConfig, *, replication: bool = False) -> EngineError:
    """Why no connection came about, in our words and without secrets."""
    if isinstance(error, psycopg.OperationalError):
        login = error.pgconn.user.decode("utf-8", "replace") if error.pgconn else ""
        return connection_error(str(error), config, replication=replication, login=login)
    # UnicodeError: Python encodes a host name before it is looked up, and refuses `a..b` there.
    return PreconditionError(
        "the connection settings are not understood",
        hint="correct the host name (PGHOST), or the setting that the reason names",
        server=str(config),
        reason=without_secrets(str(error).strip(), config),
    )


# SQLSTATE classes and codes by who must act (PostgreSQL documentation, appendix A).
_TRANSIENT = ("08", "53", "57", "40", "58")
_DATA = ("XX001", "XX002")
# Names of a cluster's roles and databases have no encoding; a SQL_ASCII database sends them as they are.
_NOT_UTF8 = ("22021", "22P05")


def server_error(sqlstate: str | None, message: str, what: str) -> EngineError:
    """An error that the server answered to `what`."""
    state = sqlstate or ""
    facts = {"reason": message, "sqlstate": state}
    if state in _DATA:
        return DataError(f"{what}: the server found damaged data", hint="look at the server's log", **facts)
    if state == "42501":
        return PreconditionError(
            f"{what}: the role lacks a right",
            hint="grant what the reason names to the role, or connect as another",
            **facts,
        )
    if state in _NOT_UTF8:
        return PreconditionError(
            f"{what}: the server has a name that is not UTF-8",
            hint="rename that role, database or table; physical backups and restores of whole clusters work as it is",
            **facts,
        )
    if not state or state[:2] in _TRANSIENT:
        return TransientError(
            f"{what} failed", hint="run it again; see the server's log if it stays", **facts
        )
    return PreconditionError(
        f"{what} was refused", hint="the reason is in the server's words; its log may say more", **facts
    )


def driver_error(error: Exception) -> EngineError | None:
    """What psycopg raised, in the engine's words; None for what is not psycopg's."""
    if not isinstance(error, psycopg.Error):
        return None
    return server_error(error.sqlstate, (str(error).splitlines() or [""])[0], "a query")


def result_error(result: pq.abc.PGresult, what: str) -> EngineError:
    """The error that a failed result carries."""
    sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
    primary = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
    message = (primary or result.error_message or b"").decode("utf-8", "replace").strip()
    return server_error(sqlstate.decode() if sqlstate else None, message, what)


def lost(pgconn: pq.abc.PGconn, what: str) -> TransientError:
    """The connection broke while we waited for something."""
    reason = pgconn.error_message.decode("utf-8", "replace").strip().splitlines()
    return TransientError(
        f"the connection to the server was lost during {what}",
        hint="run it again; if it happens again, see the server's log",
        reason=reason[0] if reason else "closed",
    )


def query(
    connection: psycopg.Connection[tuple[Any, ...]], sql: LiteralString, *args: Any
) -> list[tuple[Any, ...]]:
    """Rows of an ordinary query."""
    try:
        return connection.execute(sql, args or None).fetchall()
    except psycopg.Error as error:
        raise server_error(error.sqlstate, str(error).splitlines()[0], "a query") from error


def command(pgconn: pq.abc.PGconn, text: str, what: str) -> list[dict[str, bytes | None]]:
    """Run a replication command that answers with rows; they come as bytes by column name."""
    result = pgconn.exec_(text.encode())
    if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise result_error(result, what)
    return rows_of(result)


def rows_of(result: pq.abc.PGresult) -> list[dict[str, bytes | None]]:
    names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
    return [
        {name: result.get_value(row, column) for column, name in enumerate(names)}
        for row in range(result.ntuples)
    ]
