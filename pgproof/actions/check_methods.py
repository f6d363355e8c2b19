"""Which methods of backup a server allows, and how much work each of them can lose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from pgproof.errors import EngineError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.report import Check
from pgproof.postgres.connection import connect
from pgproof.postgres.databases import Connection, choose_databases, list_databases, refuse_unreadable
from pgproof.postgres.facts import read_ordinary_facts
from pgproof.postgres.programs import find_clients

_PHYSICAL = (
    "loses what came after the last backup; with `wal stream` a second or two of work, and nothing where that is listed in "
    "synchronous_standby_names"
)
_LOGICAL = "loses what came after the last backup"


def physical_method(replicates: bool) -> Check:
    """`replicates` tells whether a replication connection was had."""
    if replicates:
        return Check("method physical", True, f"allowed: {_PHYSICAL}")
    return Check("method physical", None, "the server does not allow it, as said above")


def logical_method(postgres: PostgresConfig, config: BackupConfig, connection: Connection) -> Iterator[Check]:
    """What a logical backup would refuse or leave out; a failure only where one is asked for."""
    wanted = config.logical_only
    try:
        facts = read_ordinary_facts(connection)
        programs = find_clients(facts.major, config.bin_dir)
        chosen, findings = choose_databases(
            list_databases(connection), config.databases, connection.info.user
        )
        for database in chosen if not (config.tables or config.exclude_tables) else []:
            with closing(connect(postgres, dbname=database.name)) as inside:
                refuse_unreadable(inside, database.name)
    except EngineError as error:
        yield Check("method logical", False if wanted else None, f"not possible: {error.message}", error.hint)
        return
    for finding in findings:
        yield Check(finding.kind, None, finding.message)
    names = ", ".join(database.name for database in chosen)
    yield Check("method logical", True, f"allowed: {names} by pg_dump {programs.version}; {_LOGICAL}")
