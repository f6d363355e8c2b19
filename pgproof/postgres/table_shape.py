"""Read what a table is made of from the catalog of a server."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

from pgproof.errors import PreconditionError
from pgproof.model.table_names import TableName
from pgproof.model.table_shape import Addition, Column, TableShape

_TABLE = """
SELECT c.oid::bigint, c.relkind::text, c.relpersistence::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""
_ALIKE = """
SELECT format('%%I.%%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND lower(c.relname) = lower(%s) ORDER BY 1 LIMIT 5
"""
_COLUMNS = """
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attcollation <> t.typcollation THEN format('%%I.%%I', n.nspname, o.collname) ELSE '' END,
       a.attnotnull, a.attgenerated <> '', a.attidentity::text
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation o ON o.oid = a.attcollation LEFT JOIN pg_namespace n ON n.oid = o.collnamespace
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_PRIMARY_KEY = """
SELECT a.attname::text FROM pg_index i, unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, at)
JOIN pg_attribute a ON a.attrelid = %s AND a.attnum = k.attnum
WHERE i.indrelid = %s AND i.indisprimary AND i.indisvalid ORDER BY k.at
"""
# Each: what it is, the command that makes it, and what stands before and behind the table's name in that for another.
_ADDITIONS: tuple[LiteralString, ...] = (
    # A primary key before other constraints and before indexes.
    """
SELECT format('%%s %%I', CASE o.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique constraint'
                                        WHEN 'x' THEN 'exclusion constraint' WHEN 'f' THEN 'foreign key'
                                        ELSE 'check constraint' END, o.conname),
       format('ALTER TABLE %%I.%%I ADD CONSTRAINT %%I %%s', n.nspname, c.relname, o.conname, d.text),
       CASE WHEN o.contype <> 'f' THEN 'ALTER TABLE ' ELSE '' END,
       CASE WHEN o.contype <> 'f' THEN ' ADD ' || d.text ELSE '' END
FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
     LATERAL (SELECT pg_get_constraintdef(o.oid)) d(text)
WHERE o.conrelid = %s AND o.contype IN ('p', 'u', 'x', 'c', 'f') ORDER BY o.contype <> 'p', o.conname
""",
    """
SELECT format('index %%I', x.relname), d.text,
       CASE WHEN starts_with(d.text, p.text) THEN CASE WHEN i.indisunique THEN 'CREATE UNIQUE INDEX ON '
                                                       ELSE 'CREATE INDEX ON ' END ELSE '' END,
       CASE WHEN starts_with(d.text, p.text) THEN substr(d.text, length(p.text) + 1) ELSE '' END
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
     LATERAL (SELECT pg_get_indexdef(i.indexrelid)) d(text),
     LATERAL (SELECT format('CREATE %%sINDEX %%I ON %%s%%I.%%I', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END,
                            x.relname, CASE WHEN x.relkind = 'I' THEN 'ONLY ' ELSE '' END,
                            n.nspname, c.relname)) p(text)
WHERE i.indrelid = %s AND i.indislive
  AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = i.indexrelid AND o.conrelid = i.indrelid
                                                AND o.contype IN ('p', 'u', 'x'))
ORDER BY x.relname
""",
    """
SELECT format('default of column %%I', a.attname),
       format('ALTER TABLE %%I.%%I ALTER COLUMN %%I SET DEFAULT %%s', n.nspname, c.relname, a.attname, e.text),
       CASE WHEN e.plain THEN 'ALTER TABLE ' ELSE '' END,
       CASE WHEN e.plain THEN format(' ALTER COLUMN %%I SET DEFAULT %%s', a.attname, e.text) ELSE '' END
FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
JOIN pg_class c ON c.oid = f.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
     LATERAL (SELECT pg_get_expr(f.adbin, f.adrelid),
                     pg_get_expr(f.adbin, f.adrelid) !~ 'nextval'
                     AND NOT EXISTS (SELECT FROM pg_depend p JOIN pg_class s ON s.oid = p.refobjid
                                     WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = f.oid
                                       AND p.refclassid = 'pg_class'::regclass AND s.relkind = 'S')) e(text, plain)
WHERE f.adrelid = %s AND a.attgenerated = '' ORDER BY a.attnum
""",
    """
SELECT format('trigger %%I', tgname), pg_get_triggerdef(oid), '', '' FROM pg_trigger
WHERE tgrelid = %s AND NOT tgisinternal ORDER BY tgname
""",
    """
SELECT format('%%s column %%I', CASE WHEN attidentity <> '' THEN 'identity' ELSE 'computed' END, attname), '', '', ''
FROM pg_attribute WHERE attrelid = %s AND NOT attisdropped AND (attidentity <> '' OR attgenerated <> '') ORDER BY attnum
""",
    """
SELECT format('policy %%I', polname), '', '', '' FROM pg_policy WHERE polrelid = %s ORDER BY polname
""",
    """
SELECT 'privileges', string_agg(g.text, '; ' ORDER BY g.text), '', ''
FROM (SELECT format('GRANT %%s ON TABLE %%I.%%I TO %%s', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),
                    n.nspname, c.relname, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE format('%%I', r.rolname) END)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
      LEFT JOIN pg_roles r ON r.oid = a.grantee
      WHERE c.oid = %s AND a.grantee <> c.relowner AND (a.grantee = 0 OR r.oid IS NOT NULL)
      GROUP BY n.nspname, c.relname, a.grantee, r.rolname) g(text)
HAVING count(*) > 0
""",
)
# tgtype: 4 is INSERT, 16 is UPDATE; ev_type: 2 is UPDATE, 3 is INSERT.
_TRIGGERS = """
SELECT tgname::text FROM pg_trigger
WHERE tgrelid = %s AND NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgtype & 20 <> 0
UNION ALL
SELECT rulename::text FROM pg_rewrite WHERE ev_class = %s AND ev_enabled IN ('O', 'A') AND ev_type IN ('2', '3')
ORDER BY 1
"""


def read_shape(connection: psycopg.Connection[Any], name: TableName) -> TableShape | None:
    """None if there is no such relation; its settings are fixed already. Raises PreconditionError for one that is
    no table."""
    found = connection.execute(_TABLE, [name.schema, name.table]).fetchone()
    if found is None:
        return None
    oid, kind, persistence = found
    if kind not in ("r", "p"):
        raise PreconditionError(
            "this is no table with rows of its own",
            hint="name the table itself; a view shows other tables, and a materialized view can be refreshed",
            name=name,
        )
    columns = connection.execute(_COLUMNS, [oid]).fetchall()
    additions = [row for query in _ADDITIONS for row in connection.execute(query, [oid]).fetchall()]
    key = connection.execute(_PRIMARY_KEY, [oid, oid]).fetchall()
    triggers = connection.execute(_TRIGGERS, [oid, oid]).fetchall()
    return TableShape(
        name,
        tuple(Column(*row) for row in columns),
        tuple(row[0] for row in key),
        kind == "p",
        tuple(Addition(*row) for row in additions),
        tuple(row[0] for row in triggers),
        persistence == "u",
    )


def names_alike(connection: psycopg.Connection[Any], name: TableName) -> list[str]:
    """Tables of the same name in other letters or schemas."""
    return [row[0] for row in connection.execute(_ALIKE, [name.table]).fetchall()]


def schema_exists(connection: psycopg.Connection[Any], schema: str) -> bool:
    row = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema]).fetchone()
    return row is not None
