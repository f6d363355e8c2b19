"""How PostgreSQL's client programs reach the server that a connection of ours reached, with nothing secret in sight.

A connection is opened first: it tells a refusal in our words, and every parameter that libpq took from services,
variables and files. Programs get those as a connection string, and the password in a file of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from pgproof.errors import PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.postgres.connection import connect
from pgproof.postgres.disk_errors import TEMPORARY, on_disk
from pgproof.postgres.programs import environment
from pgproof.postgres.temporary import temporary_directory

_SECRET = frozenset({"password", "sslpassword"})
# A dump is in its database's own encoding, and both of its ends have their own name for themselves.
_LEFT_OUT = frozenset({"client_encoding", "fallback_application_name", "passfile", "service", "servicefile"})

# What our libpq chooses without being told, and older ones do not know.
_CHOSEN = {"sslcertmode": "allow"}


@dataclass(frozen=True, slots=True)
class ClientAccess:
    """`conninfo` is fit to be seen by everybody; `env` is the whole environment of the program."""

    conninfo: str
    env: Mapping[str, str]


@contextmanager
def client_access(config: PostgresConfig, dbname: str | None, place: Path) -> Iterator[ClientAccess]:
    """Access to a database as long as the block lasts; its secrets lie in a private directory in `place`.

    Raises the errors of `connect`.
    """
    with closing(connect(config, dbname=dbname)) as connection:
        conninfo, secrets = _parameters(connection)
    with temporary_directory("client", place, None) as private:
        # libpq looks there for certificates, as it does for ours.
        more = {name: os.environ[name] for name in ("HOME",) if name in os.environ}
        if "password" in secrets:
            more["PGPASSFILE"] = _write(private / "passfile", f"*:*:*:*:{_escaped(secrets['password'])}\n")
        if "sslpassword" in secrets:
            more["PGSERVICEFILE"] = _write(
                private / "service", f"[pgproof]\nsslpassword={secrets['sslpassword']}\n"
            )
            more["PGSERVICE"] = "pgproof"
        yield ClientAccess(conninfo, environment(more))


def _parameters(connection: psycopg.Connection[tuple[object, ...]]) -> tuple[str, dict[str, str]]:
    """What this connection really used: its connection string without secrets, and its secrets."""
    used = {
        option.keyword.decode(): option.val.decode()
        for option in connection.pgconn.info
        if option.val is not None and option.val != (option.compiled or b"")
    }
    info = connection.info
    used = {name: value for name, value in used.items() if _CHOSEN.get(name) != value}
    # Of several hosts the one that answered.
    used |= {"host": info.host, "port": str(info.port), "user": info.user, "dbname": info.dbname}
    if info.hostaddr and not info.host.startswith("/"):
        used["hostaddr"] = info.hostaddr
    else:
        used.pop("hostaddr", None)
    secrets = {name: used.pop(name) for name in _SECRET if used.get(name)}
    # One that a password file gave is known to the connection only.
    if info.password:
        secrets["password"] = info.password
    for name in ("password", *_LEFT_OUT):
        used.pop(name, None)
    if any("\n" in secret or "\r" in secret for secret in secrets.values()):
        raise PreconditionError(
            "a password with a line end cannot be given to pg_dump", hint="change the password of this role"
        )
    return make_conninfo("", **used), secrets


def _escaped(password: str) -> str:
    return password.replace("\\", "\\\\").replace(":", "\\:")


def _write(path: Path, text: str) -> str:
    with on_disk(path, TEMPORARY):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    return str(path)
