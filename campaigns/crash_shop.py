"""A database that is attacked while it is restored, cloned and mended, the backups it comes from, and what it held then."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from campaigns.crash_ground import Ground, Store

NAME = "shop"
# `bag` has no key and most of its rows more than once: what is put back twice is seen.
_MAKE = """
CREATE DATABASE shop TEMPLATE template0;
ALTER DATABASE shop SET work_mem = '7MB'; ALTER DATABASE shop CONNECTION LIMIT 17;
"""
_TABLES = """
DROP SCHEMA public CASCADE; CREATE SCHEMA public;
CREATE TABLE items (id int PRIMARY KEY, t text);
INSERT INTO items SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 3000) g;
CREATE TABLE bag (t text); INSERT INTO bag SELECT 'row ' || g % 700 FROM generate_series(1, 2000) g;
CREATE INDEX ON bag (t); CREATE VIEW texts AS SELECT t FROM items UNION ALL SELECT t FROM bag;
"""
# The mistake, and what went on after it.
_CHANGE = """
DELETE FROM items WHERE id % 7 = 0; UPDATE items SET t = 'overwritten' WHERE id % 7 = 1;
INSERT INTO items SELECT g, 'new' FROM generate_series(10001, 10100) g;
DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE t LIKE 'row 1%' LIMIT 300);
INSERT INTO bag SELECT 'new' FROM generate_series(1, 3);
"""
_PROPERTIES = """
SELECT datallowconn, datconnlimit, (SELECT setconfig::text FROM pg_db_role_setting WHERE setdatabase = d.oid)
FROM pg_database d WHERE datname = %s
"""
Rows = Counter[tuple[object, ...]]
Tables = dict[str, Rows]


class Shop:
    """`physical` and `logical` are its backups in `store`, in which it was as `backed_up` says; live it is `changed`."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        ground.cluster.psql(_MAKE)
        ground.cluster.psql(_TABLES, NAME)
        self.backed_up = self.tables()
        self.properties = self.properties_of(NAME)
        self.store: Store = ground.new_store("local")
        logical = ("create", "--method=logical", f"--database={NAME}")
        self.physical, self.logical = (
            str(ground.run(self.store, *how).answer["backup_id"]) for how in (("create",), logical)
        )
        self.store.listed += [self.physical, self.logical]
        self.reset()
        self.changed = self.tables()

    def reset(self) -> None:
        """The live database as every attack finds it."""
        self._ground.cluster.psql(_TABLES + _CHANGE, NAME)

    def tables(self, name: str = NAME) -> Tables:
        """Every row of every table."""
        with self._ground.cluster.connect(name) as connection:
            names = connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
            )
            return {
                table: Counter(connection.execute(sql.SQL("TABLE {}").format(sql.Identifier(table))))
                for (table,) in names.fetchall()
            }

    def databases(self) -> list[str]:
        return self._psql("SELECT datname FROM pg_database ORDER BY 1").splitlines()

    def unfinished(self) -> list[str]:
        """Databases that are being built, or were, and those that somebody began to drop."""
        return self._psql(
            "SELECT datname FROM pg_database WHERE datname LIKE 'pgproof_new_%' OR datconnlimit = -2"
        ).splitlines()

    def replaced(self) -> list[str]:
        return [name for name in self.databases() if name.startswith(f"{NAME}_before_")]

    def properties_of(self, name: str) -> list[tuple[object, ...]]:
        with self._ground.cluster.connect() as connection:
            return connection.execute(_PROPERTIES, [name]).fetchall()

    def drop(self, *names: str) -> None:
        for name in names:
            self._psql(f"DROP DATABASE {name}")

    def require_unchanged(self) -> None:
        assert self.tables() == self.changed, "the live database was changed"
        self.require_open()

    def require_open(self) -> None:
        """Whoever may connect may still do so, with the settings that there were."""
        assert self.properties_of(NAME) == self.properties

    def _psql(self, command: str) -> str:
        return self._ground.cluster.psql(command)
