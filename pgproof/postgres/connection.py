"""Connections to a PostgreSQL server, and its errors in the engine's words."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.model.config import PostgresConfig

# Names in pg_stat_activity. "pgproof_…" matches no sensible entry of synchronous_standby_names but `*`.
APPLICATION_NAME = "pgproof"

_DEFAULTS = {
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
    overrides = {"dbname": dbname} if dbname else {}
    if not dbname and not config.database and "service" not in config.options:
        overrides["dbname"] = "postgres"
    return _open(config, {**overrides, "application_name": name})


def connect_replication(
    config: PostgresConfig, *, name: str = APPLICATION_NAME
) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection for physical replication. Raises EngineError with the reason in our words."""
    # A physical walsender belongs to no database; with a name here pg_hba.conf would be searched for
    # the database instead of the keyword "replication".
    return _open(config, {"replication": "true", "dbname": "replication", "application_name": name})


def _open(config: PostgresConfig, overrides: dict[str, str]) -> psycopg.Connection[tuple[Any, ...]]:
    conninfo = make_conninfo("", **{**_DEFAULTS, **config.parameters(), **overrides})
    try:
        return psycopg.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        raise connection_error(error, config) from error
    except psycopg.ProgrammingError as error:
        raise PreconditionError(
            "the connection settings are not understood",
            hint="check host, port and options",
            server=str(config),
        ) from error


def connection_error(error: psycopg.Error, config: PostgresConfig) -> EngineError:
    """Why a connection was refused, and who must act."""
    text = " ".join(str(error).split())
    facts = {"server": str(config), "reason": _without_secrets(text, config)}
    for mark, message, hint in _REFUSALS:
        if mark in text:
            return PreconditionError(message, hint=hint.format(**_placeholders(config, text)), **facts)
    for mark, message in _FOR_NOW:
        if mark in text:
            return TransientError(
                message, hint="it is tried again; see the server's log if it stays", **facts
            )
    return TransientError(
        "the server cannot be reached",
        hint="check that PostgreSQL runs and that host, port and network are right",
        **facts,
    )


_REFUSALS = (
    (
        "password authentication failed",
        "the server refused the password",
        "correct PGPASSWORD, the password file or the block; the role is {user}",
    ),
    (
        "no password supplied",
        "the server wants a password and none is given",
        "set PGPASSWORD, a password file (PGPASSFILE) or the block's password for role {user}",
    ),
    (
        "no pg_hba.conf entry",
        "the server has no pg_hba.conf line that lets us in",
        "add this line to pg_hba.conf and reload:  {hba}",
    ),
    (
        "pg_hba.conf rejects",
        "a pg_hba.conf line rejects this connection",
        "put this line before it and reload:  {hba}",
    ),
    (
        "WAL sender",
        "the role may not use replication",
        "run as a superuser:  ALTER ROLE {user} REPLICATION",
    ),
    (
        "replication role to start walsender",
        "the role may not use replication",
        "run as a superuser:  ALTER ROLE {user} REPLICATION",
    ),
    (
        "does not exist",
        "the server does not know this role or database",
        "create it, or correct PGUSER and PGDATABASE",
    ),
    ("could not translate host name", "no such host", "correct the host name (PGHOST) or the name service"),
    ("not permitted to log in", "the role may not log in", "run as a superuser:  ALTER ROLE {user} LOGIN"),
    (
        "Peer authentication failed",
        "the server wants another operating system user",
        "connect as that user, or use a password",
    ),
    ("certificate", "the TLS certificate was not accepted", "check sslmode, sslrootcert, sslcert and sslkey"),
    (
        "server does not support SSL",
        "the server does not offer TLS",
        "turn it on there, or lower sslmode knowingly",
    ),
)
_FOR_NOW = (
    ("starting up", "the server is starting up"),
    ("shutting down", "the server is shutting down"),
    ("not yet accepting", "the server is recovering"),
    ("exceeds max_wal_senders", "all of the server's WAL senders are in use (max_wal_senders)"),
    ("too many connections", "the server has no connection left for us"),
    ("remaining connection slots", "the server has no connection left for us"),
)


def _placeholders(config: PostgresConfig, text: str) -> dict[str, str]:
    user = config.user or "<user>"
    database = "replication" if "replication" in text else (config.database or "postgres")
    if config.host is None or config.host.startswith("/"):
        hba = f"local  {database}  {user}  scram-sha-256"
    else:
        hba = f"hostssl  {database}  {user}  <this machine's address>/32  scram-sha-256"
    return {"user": user, "hba": hba}


def _without_secrets(text: str, config: PostgresConfig) -> str:
    return text.replace(config.password, "***") if config.password else text


# SQLSTATE classes and codes by who must act (PostgreSQL documentation, appendix A).
_TRANSIENT = ("08", "53", "57", "40", "58")
_DATA = ("XX001", "XX002")


def server_error(sqlstate: str | None, message: str, what: str) -> EngineError:
    """An error that the server answered to `what`."""
    state = sqlstate or ""
    facts = {"reason": message, "sqlstate": state}
    if state in _DATA:
        return DataError(f"{what}: the server found damaged data", hint="look at the server's log", **facts)
    if state == "42501":
        return PreconditionError(
            f"{what}: the role lacks a right", hint="`pgproof check` says which", **facts
        )
    if not state or state[:2] in _TRANSIENT:
        return TransientError(
            f"{what} failed", hint="run it again; see the server's log if it stays", **facts
        )
    return PreconditionError(f"{what} was refused", hint="`pgproof check` may say why", **facts)


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
