"""A new and empty cluster, for a scratch server that databases of a dump are restored into."""

from __future__ import annotations

import secrets
from pathlib import Path

import psycopg
from psycopg import sql

from pgproof.model.job import Job
from pgproof.model.manifest import DumpedDatabase
from pgproof.model.server_log import explain
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.programs import Programs, run
from pgproof.postgres.scratch_client import ScratchServer

_MINUTES = 600.0


def make_cluster(programs: Programs, data_dir: Path, user: OsUser | None, job: Job) -> str:
    """Run initdb; returns the name of the superuser, which no role of a dump has."""
    superuser = f"pgproof-{secrets.token_hex(8)}"
    run(
        [
            programs.path("initdb"),
            f"--pgdata={data_dir}",
            f"--username={superuser}",
            "--auth=trust",
            # Names of roles and databases are bytes, and nothing else takes those of every encoding.
            "--encoding=SQL_ASCII",
            "--locale=C",
            "--data-checksums",
            "--no-sync",
            "--no-instructions",
        ],
        user=user,
        timeout=_MINUTES,
        what="initdb",
        job=job,
    )
    return superuser


def clear_names(server: ScratchServer) -> None:
    """Put the database `postgres` out of the way of one with its name."""
    with server.connect("template1") as connection:
        aside = f"pgproof-{secrets.token_hex(8)}"
        connection.execute(sql.SQL("ALTER DATABASE postgres RENAME TO {}").format(sql.Identifier(aside)))
    server.maintenance_db = server.aside = aside


def make_database(server: ScratchServer, database: DumpedDatabase) -> str:
    """Create it with the encoding and the locale that it had; where this machine lacks that locale with C.

    Returns what the machine lacks, or nothing.
    """
    problem = ""
    with server.connect() as connection:
        try:
            connection.execute(_create(database, own_locale=True))
        except psycopg.Error as error:
            known = explain(str(error))
            if known is None and not isinstance(error, _LOCALE_ERRORS):
                raise
            problem = str(error).splitlines()[0]
            connection.execute(_create(database, own_locale=False))
    return problem


# A locale that is not known here, or does not fit the encoding here.
_LOCALE_ERRORS = (
    psycopg.errors.WrongObjectType,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InvalidObjectDefinition,
    psycopg.errors.UndefinedObject,
)


def _create(database: DumpedDatabase, *, own_locale: bool) -> sql.Composed:
    options = {"ENCODING": database.encoding, "LC_COLLATE": "C", "LC_CTYPE": "C"}
    if own_locale:
        options |= {"LC_COLLATE": database.collate, "LC_CTYPE": database.ctype}
        if database.provider != "libc":
            options |= {"LOCALE_PROVIDER": database.provider}
            options |= {f"{database.provider.upper()}_LOCALE": database.locale}
    return sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(
        sql.Identifier(database.name),
        sql.SQL(" ").join(
            # The name of an option is one of ours; a provider from a manifest is a value everywhere else.
            sql.SQL("{} {}").format(sql.SQL(_OPTIONS[name]), sql.Literal(value))
            for name, value in options.items()
        ),
    )


_OPTIONS = {
    name: name
    for name in ("ENCODING", "LC_COLLATE", "LC_CTYPE", "LOCALE_PROVIDER", "ICU_LOCALE", "BUILTIN_LOCALE")
}
