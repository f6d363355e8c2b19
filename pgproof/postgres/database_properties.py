"""Read what belongs to a database itself, create another one like it, and give it the same."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from pgproof.model.database_properties import DatabaseProperties, Grant, Setting
from pgproof.postgres.connection import query

Connection = psycopg.Connection[Any]
_PRIVILEGES: dict[str, LiteralString] = {
    "CONNECT": "CONNECT",
    "CREATE": "CREATE",
    "TEMPORARY": "TEMPORARY",
}
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}


def read_properties(connection: Connection, name: str) -> DatabaseProperties | None:
    """Of the database `name` of this server, which need not be the connected one; None if there is none."""
    version = connection.info.server_version
    locale = "datlocale" if version >= 170000 else "daticulocale"
    rules = "daticurules" if version >= 160000 else "NULL"
    found = connection.execute(
        sql.SQL(
            """
            SELECT d.oid::bigint, pg_encoding_to_char(d.encoding)::text, d.datlocprovider::text, d.datcollate::text,
                   d.datctype::text, coalesce({}::text, ''), coalesce({}::text, ''), r.rolname::text, t.spcname::text,
                   d.datconnlimit, shobj_description(d.oid, 'pg_database'), d.datacl IS NULL, d.datistemplate
            FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba JOIN pg_tablespace t ON t.oid = d.dattablespace
            WHERE d.datname = {}
            """
        ).format(sql.SQL(locale), sql.SQL(rules), sql.Literal(name))
    ).fetchone()
    if found is None:
        return None
    (
        oid,
        encoding,
        provider,
        collate,
        ctype,
        local,
        icu,
        owner,
        tablespace,
        limit,
        comment,
        plain,
        template,
    ) = found
    grants = query(
        connection,
        """
        SELECT coalesce(r.rolname::text, ''), a.privilege_type, bool_or(a.is_grantable)
        FROM pg_database d, aclexplode(d.datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE d.oid = %s AND (a.grantee = 0 OR r.oid IS NOT NULL) GROUP BY 1, 2 ORDER BY 1, 2
        """,
        oid,
    )
    settings = query(
        connection,
        """
        SELECT coalesce(r.rolname::text, ''), split_part(c.setting, '=', 1),
               substr(c.setting, strpos(c.setting, '=') + 1)
        FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) WITH ORDINALITY c (setting, position)
        LEFT JOIN pg_roles r ON r.oid = s.setrole
        WHERE s.setdatabase = %s AND (s.setrole = 0 OR r.oid IS NOT NULL) ORDER BY 1, c.position
        """,
        oid,
    )
    return DatabaseProperties(
        encoding=encoding,
        provider=_PROVIDERS[provider],
        collate=collate,
        ctype=ctype,
        locale=local,
        icu_rules=icu,
        owner=owner,
        # Naming this one takes a right that being silent does not.
        tablespace="" if tablespace == "pg_default" else tablespace,
        connection_limit=limit,
        comment=comment,
        grants=None if plain else tuple(Grant(*row) for row in grants),
        settings=tuple(Setting(*row) for row in settings),
        is_template=template,
    )


def known_settings(connection: Connection) -> list[str]:
    return [row[0] for row in query(connection, "SELECT name FROM pg_settings")]


def create_empty(connection: Connection, name: str, like: DatabaseProperties) -> None:
    """A database that holds nothing and that nobody can enter yet. Raises psycopg.Error."""
    options: list[sql.Composable] = [sql.SQL("TEMPLATE template0")]
    options.append(sql.SQL("ENCODING {}").format(sql.Literal(like.encoding)))
    options.append(sql.SQL("LOCALE_PROVIDER {}").format(sql.Identifier(like.provider)))
    options.append(sql.SQL("LC_COLLATE {}").format(sql.Literal(like.collate)))
    options.append(sql.SQL("LC_CTYPE {}").format(sql.Literal(like.ctype)))
    if like.locale:
        word = "ICU_LOCALE" if like.provider == "icu" else "BUILTIN_LOCALE"
        options.append(sql.SQL("{} {}").format(sql.SQL(word), sql.Literal(like.locale)))
    if like.icu_rules:
        options.append(sql.SQL("ICU_RULES {}").format(sql.Literal(like.icu_rules)))
    _create(connection, name, like, options)


def create_copy(connection: Connection, name: str, source: str, like: DatabaseProperties) -> None:
    """A copy of the files of `source`, which nobody may be connected to; nobody can enter it yet."""
    _create(
        connection,
        name,
        like,
        [sql.SQL("TEMPLATE {}").format(sql.Identifier(source)), sql.SQL("STRATEGY file_copy")],
    )


def _create(
    connection: Connection, name: str, like: DatabaseProperties, options: list[sql.Composable]
) -> None:
    if like.owner:
        options.append(sql.SQL("OWNER {}").format(sql.Identifier(like.owner)))
    if like.tablespace:
        options.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(like.tablespace)))
    options.append(sql.SQL("ALLOW_CONNECTIONS false"))
    connection.execute(
        sql.SQL("CREATE DATABASE {} ").format(sql.Identifier(name)) + sql.SQL(" ").join(options)
    )


def keep_others_out(connection: Connection, name: str, like: DatabaseProperties) -> None:
    """Let us into a new database, and nobody else but superusers, in one transaction."""
    database = sql.Identifier(name)
    (superuser,) = query(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")[0]
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    if like.owner:
        owner = sql.Identifier(like.owner)
        connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(database, owner))
    connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO CURRENT_USER").format(database))
    # No limit counts for a superuser; anybody else would be kept out by it as well.
    limit = sql.SQL("CONNECTION LIMIT 0 " if superuser else "")
    connection.execute(sql.SQL("ALTER DATABASE {} {}ALLOW_CONNECTIONS true").format(database, limit))


def give_properties(connection: Connection, name: str, properties: DatabaseProperties) -> None:
    """All that `create_empty` left open, in the transaction of the caller; it was kept to us until now."""
    database = sql.Identifier(name)

    def run(text: LiteralString, *parts: sql.Composable) -> None:
        connection.execute(sql.SQL(text).format(database, *parts))

    if properties.grants is None:
        run("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC")
        run("GRANT ALL ON DATABASE {} TO {}", _owner(properties))
    else:
        # Also of the owner, whose own rights can be taken away.
        run("REVOKE ALL ON DATABASE {} FROM {}", _owner(properties))
        for grant in properties.grants:
            grantee = sql.Identifier(grant.grantee) if grant.grantee else sql.SQL("PUBLIC")
            option = sql.SQL(" WITH GRANT OPTION" if grant.grantable and grant.grantee else "")
            connection.execute(
                sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                    sql.SQL(_PRIVILEGES[grant.privilege]), database, grantee, option
                )
            )
    if properties.owner:
        _take_back_ours(connection, database, properties)
    for setting in properties.settings:
        values = sql.SQL(", ").join(map(sql.Literal, setting.values()))
        parameter = sql.SQL(".").join(map(sql.Identifier, setting.name.split(".")))
        if setting.role:
            role = sql.Identifier(setting.role)
            connection.execute(
                sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} TO {}").format(role, database, parameter, values)
            )
        else:
            run("ALTER DATABASE {} SET {} TO {}", parameter, values)
    run("COMMENT ON DATABASE {} IS {}", sql.Literal(properties.comment))
    run("ALTER DATABASE {} CONNECTION LIMIT {}", sql.Literal(properties.connection_limit))
    if properties.is_template:
        run("ALTER DATABASE {} IS_TEMPLATE true")


def _owner(properties: DatabaseProperties) -> sql.Composable:
    return sql.Identifier(properties.owner) if properties.owner else sql.SQL("CURRENT_USER")


def _take_back_ours(connection: Connection, database: sql.Composable, properties: DatabaseProperties) -> None:
    """The right that `keep_others_out` gave us, unless it is ours anyway."""
    user = connection.info.user
    granted = {grant.grantee for grant in properties.grants or ()}
    if user != properties.owner and user not in granted:
        connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM CURRENT_USER").format(database))
