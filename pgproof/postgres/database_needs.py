"""What a database names that lies outside of it, and so must exist on the server that gets a copy."""

from __future__ import annotations

from typing import Any

import psycopg

from pgproof.errors import PreconditionError
from pgproof.model.database_needs import DatabaseNeeds
from pgproof.model.database_properties import DatabaseProperties
from pgproof.postgres.connection import query
from pgproof.postgres.refusals import sql_name

Connection = psycopg.Connection[Any]
_NAMED = 10


def read_needs(connection: Connection, *, owners: bool, privileges: bool) -> DatabaseNeeds:
    """Of the connected database, without what its properties name; of owners and rights what is wanted."""
    # What belongs to the first role of all is in no dependency: those are pinned. Policies and user mappings come always.
    roles = query(
        connection,
        """
        SELECT DISTINCT r.rolname::text FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
        WHERE d.refclassid = 'pg_authid'::regclass
          AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND CASE WHEN d.deptype = 'r' OR d.classid = 'pg_user_mapping'::regclass THEN true
                   WHEN d.deptype = 'o' THEN %s ELSE %s END
        UNION
        SELECT rolname::text FROM pg_roles WHERE oid = 10 AND %s AND EXISTS (
            SELECT FROM (
                SELECT oid FROM pg_class WHERE relowner = 10 AND relnamespace <> 'pg_toast'::regnamespace
                UNION ALL SELECT oid FROM pg_proc WHERE proowner = 10
                UNION ALL SELECT oid FROM pg_namespace WHERE nspowner = 10 AND nspname !~ '^pg_') o
            WHERE o.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = o.oid AND e.deptype = 'e'))
        """,
        owners,
        privileges,
        owners,
    )
    tablespaces = query(
        connection,
        "SELECT DISTINCT t.spcname::text FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace "
        "WHERE t.spcname <> 'pg_global'",
    )
    extensions = query(connection, "SELECT extname::text FROM pg_extension")
    return DatabaseNeeds(*(frozenset(row[0] for row in rows) for rows in (roles, tablespaces, extensions)))


def refuse_unmet(target: Connection, needs: DatabaseNeeds, properties: DatabaseProperties) -> None:
    """Raise PreconditionError naming what the server of `target` lacks."""
    missing = (needs.roles | properties.roles) - _names(query(target, "SELECT rolname::text FROM pg_roles"))
    if missing:
        raise PreconditionError(
            "roles that the database names do not exist on this server",
            hint=f"create them (CREATE ROLE {sql_name(min(missing))} and so on), or leave out owners and rights "
            "(--no-owner --no-privileges); policies and user mappings need their roles in any case",
            roles=_some(missing),
        )
    # The target's own one where it has the same name is enough; pg_default is everywhere.
    places = needs.tablespaces | ({properties.tablespace} - {""})
    missing = places - _names(query(target, "SELECT spcname::text FROM pg_tablespace"))
    if missing:
        raise PreconditionError(
            "tablespaces that the database uses do not exist on this server",
            hint="create them, or put everything into the default one: --no-tablespaces",
            tablespaces=_some(missing),
        )
    missing = needs.extensions - _names(query(target, "SELECT name::text FROM pg_available_extensions"))
    if missing:
        raise PreconditionError(
            "extensions that the database uses are not installed on this server",
            hint="install their packages for this PostgreSQL version",
            extensions=_some(missing),
        )


def _names(rows: list[tuple[Any, ...]]) -> frozenset[str]:
    return frozenset(row[0] for row in rows)


def _some(names: frozenset[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more
