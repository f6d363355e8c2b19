"""What a role can dump of a server: its databases, and what in them it may not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from pgproof.errors import PreconditionError
from pgproof.model.manifest import DumpedDatabase
from pgproof.model.report import Finding
from pgproof.postgres.connection import query
from pgproof.postgres.refusals import sql_name

_NAMED = 10
# Databases that managed services keep for themselves and that nobody else enters.
_OF_THE_SERVICE = frozenset({"rdsadmin", "cloudsqladmin", "azure_maintenance", "azure_sys"})
Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Database:
    """A database of the server, and whether the role may connect to it."""

    oid: int
    name: str
    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str
    open: bool

    def dumped(self, size_bytes: int, tables: int, everything: bool) -> DumpedDatabase:
        return DumpedDatabase(
            oid=self.oid,
            name=self.name,
            size_bytes=size_bytes,
            encoding=self.encoding,
            provider=self.provider,
            collate=self.collate,
            ctype=self.ctype,
            locale=self.locale,
            tables=tables,
            everything=everything,
        )


def list_databases(connection: Connection) -> list[Database]:
    """All that can be dumped, by name: no templates, and none that takes no connections or is half dropped."""
    locale = "datlocale" if connection.info.server_version >= 170000 else "daticulocale"
    rows = connection.execute(
        psycopg.sql.SQL(
            """
            SELECT oid::bigint, datname::text, pg_encoding_to_char(encoding)::text,
                   CASE datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
                   datcollate::text, datctype::text, coalesce({}::text, ''), has_database_privilege(oid, 'CONNECT')
            FROM pg_database
            WHERE NOT datistemplate AND datallowconn AND datconnlimit <> -2
            ORDER BY datname
            """
        ).format(psycopg.sql.Identifier(locale))
    ).fetchall()
    return [Database(*row) for row in rows]


def choose_databases(
    found: list[Database], wanted: tuple[str, ...], role: str
) -> tuple[list[Database], list[Finding]]:
    """Those to dump, all that are open if none are `wanted`, and what is to be said of the others.

    Raises PreconditionError for a wanted one that is not there or not open, and if nothing is left.
    """
    by_name = {database.name: database for database in found}
    for name in wanted:
        if name not in by_name:
            raise PreconditionError(
                "there is no such database to dump",
                hint="correct --database; templates and databases that take no connections are not dumped",
                database=name,
            )
        if not by_name[name].open:
            raise PreconditionError(
                "the role may not connect to this database",
                hint=f"run as a superuser:  GRANT CONNECT ON DATABASE {sql_name(name)} TO {sql_name(role)}",
                database=name,
            )
    if wanted:
        return [by_name[name] for name in dict.fromkeys(wanted)], []
    closed = [database.name for database in found if not database.open]
    chosen = [database for database in found if database.open]
    if not chosen:
        raise PreconditionError(
            "the role may connect to no database",
            hint=f"run as a superuser:  GRANT CONNECT ON DATABASE … TO {sql_name(role)}",
        )
    return chosen, [
        Finding(
            "no-connect",
            f"the database {sql_name(name)} is not in this backup: the role may not connect to it; run as a superuser:  "
            f"GRANT CONNECT ON DATABASE {sql_name(name)} TO {sql_name(role)}",
            degrades=name not in _OF_THE_SERVICE,
        )
        for name in closed
    ]


def reads_passwords(connection: Connection) -> bool:
    """Whether the role may read those of other roles."""
    return bool(query(connection, "SELECT has_table_privilege('pg_authid', 'SELECT')")[0][0])


def loads_via_root(connection: Connection) -> bool:
    """Whether a table is partitioned by the hash of an enum, whose values have other numbers after a restore."""
    rows = query(
        connection,
        """
        SELECT EXISTS (
            SELECT FROM pg_partitioned_table p
            JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs)
            JOIN pg_type t ON t.oid = a.atttypid
            LEFT JOIN pg_type b ON b.oid = t.typbasetype
            WHERE p.partstrat = 'h' AND (t.typtype IN ('e', 'c', 'd', 'r') OR b.typtype = 'e' OR t.typelem <> 0))
        OR EXISTS (SELECT FROM pg_partitioned_table WHERE partstrat = 'h' AND 0 = ANY (partattrs))
        """,
    )
    return bool(rows[0][0])


def refuse_unreadable(connection: Connection, name: str) -> None:
    """Raise PreconditionError where a dump of the whole database would break off, or leave something out."""
    role = sql_name(connection.info.user)
    hidden = query(
        connection,
        """
        SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND row_security_active(c.oid) ORDER BY 1
        """,
    )
    if hidden:
        raise PreconditionError(
            "row-level security hides rows from this role",
            hint=f"run as a superuser:  ALTER ROLE {role} BYPASSRLS  or leave the tables out with --exclude-table",
            database=name,
            tables=_some([row[0] for row in hidden]),
        )
    objects = query(
        connection,
        """
        SELECT m.oid::bigint FROM pg_largeobject_metadata m
        WHERE NOT pg_has_role(m.lomowner, 'USAGE') AND current_setting('lo_compat_privileges') = 'off'
          AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
          AND NOT EXISTS (SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
                          AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
        ORDER BY 1
        """,
    )
    if objects:
        raise PreconditionError(
            "the role may not read all large objects",
            hint="take the backup as their owner or as a superuser, or run for each of them:  "
            f"GRANT SELECT ON LARGE OBJECT {objects[0][0]} TO {role}",
            database=name,
            count=len(objects),
        )


def hidden_from_dump(connection: Connection, name: str) -> list[Finding]:
    """What pg_dump leaves out without a word, or with less than one should know, because of the role's rights."""
    mappings, subscriptions = query(
        connection,
        """
        SELECT (SELECT count(*) FROM pg_user_mappings m JOIN pg_foreign_server s ON s.oid = m.srvid
                WHERE m.umoptions IS NULL AND NOT pg_has_role(s.srvowner, 'USAGE')),
               (SELECT count(*) FROM pg_stat_subscription s
                WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))
        """,
    )[0]
    found = []
    if mappings:
        found.append(
            Finding(
                "user-mapping",
                f"options of {mappings} user mappings of {sql_name(name)} are not in this backup: the role may not see them",
            )
        )
    if subscriptions:
        found.append(
            Finding(
                "subscription",
                f"{subscriptions} subscriptions are not in this backup: only a superuser can dump them",
            )
        )
    return found


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
