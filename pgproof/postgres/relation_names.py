"""The names of relations and databases, as a running server's catalog knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psycopg

from pgproof.errors import EngineError
from pgproof.model.config import PostgresConfig
from pgproof.model.relation_names import Names, Numbers, Relation
from pgproof.model.wal_changes import RelationFile
from pgproof.postgres.connection import connect, query

Connect = Callable[[str | None], "psycopg.Connection[tuple[Any, ...]]"]
_FIRST_USER_OID = 16384

_RELATIONS = """
    SELECT c.oid::bigint, format('%%I.%%I', n.nspname, c.relname), c.relkind::text, c.relpersistence::text,
           (SELECT format('%%I.%%I', rn.nspname, r.relname)
            FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace
            WHERE c.relispartition AND r.oid = pg_partition_root(c.oid)),
           c.reltuples::bigint,
           (CASE c.reltablespace WHEN 0 THEN d.dattablespace ELSE c.reltablespace END)::bigint,
           pg_relation_filenode(c.oid)::bigint
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_database d
    WHERE d.datname = current_database()
      AND (c.oid = ANY (%s::oid[]) OR pg_relation_filenode(c.oid) = ANY (%s::oid[]))
"""


def learn_names(names: Names, numbers: Numbers, connect: Connect, *, estimates: bool) -> list[str]:
    """Ask for these numbers, and only for them; `connect` opens a database by its name.

    `estimates` says whether its numbers of rows tell how many there were. Returns what could not be asked, in
    words. Raises EngineError if the server cannot be asked at all.
    """
    with connect(None) as connection:
        databases = dict(query(connection, "SELECT oid::bigint, datname FROM pg_catalog.pg_database"))
    names.learn_databases(databases)
    refused = []
    for oid in sorted(numbers.databases & set(databases)):
        files, oids = numbers.files.get(oid, frozenset()), numbers.oids.get(oid, frozenset())
        if not files and not oids:
            continue
        try:
            with connect(databases[oid]) as connection:
                # Functions of that database's own must not stand in for the catalog's.
                connection.execute("SET search_path TO pg_catalog")
                found = query(connection, _RELATIONS, sorted(oids), sorted({file.number for file in files}))
        except EngineError as error:
            refused.append(f"names of database {databases[oid]} could not be read: {error.message}")
            continue
        _learn(names, oid, found, estimates)
    return refused


def _learn(names: Names, database: int, rows: Iterable[tuple[Any, ...]], estimates: bool) -> None:
    for oid, name, kind, persistence, root, estimate, tablespace, number in rows:
        relation = Relation(
            oid,
            database,
            name,
            kind,
            persistence,
            root or "",
            estimate if estimates and estimate >= 0 else None,
            catalog=oid < _FIRST_USER_OID,
        )
        names.learn(relation, RelationFile(tablespace, database, number) if number else None)


def of_server(config: PostgresConfig, system_identifier: str) -> Connect | None:
    """How to ask the configured server; None if it is another cluster. Raises EngineError if it does not answer."""

    def open_database(dbname: str | None) -> psycopg.Connection[tuple[Any, ...]]:
        return connect(config, dbname=dbname)

    with open_database(None) as connection:
        ((found,),) = query(connection, "SELECT system_identifier::text FROM pg_catalog.pg_control_system()")
    return open_database if found == system_identifier else None
