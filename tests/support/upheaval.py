"""Seeded steps of everything that changes a cluster's files, each finished before the next; nothing runs beside."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from tests.support import machine
from tests.support.postgres import Cluster

_TABLES = 5
_SETUP = "CREATE EXTENSION IF NOT EXISTS pg_visibility; CREATE EXTENSION IF NOT EXISTS amcheck;" + "".join(
    f"CREATE TABLE t{n} (id int, pad text); CREATE INDEX ON t{n} (id);"
    f"INSERT INTO t{n} SELECT g, repeat('x', 150) FROM generate_series(1, {2000 + 3000 * n}) g;"
    for n in range(_TABLES)
)


class Upheaval:
    """Changes `cluster` step by step; the same seed makes the same steps. `done` counts them by name."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self._cluster = cluster
        self._chance = chance
        self._databases = 0
        self.tablespace = machine.new_dir("space", owned_by_service=True)
        cluster.psql(_SETUP + f"CREATE TABLESPACE aside LOCATION '{self.tablespace}'")

    def steps(self, count: int) -> None:
        """So many steps; kinds of which few were done come sooner."""
        kinds = self._kinds()
        for _ in range(count):
            weights = [weight / (1 + self.done[kind.__name__]) for kind, weight in kinds]
            (kind,) = self._chance.choices([kind for kind, _weight in kinds], weights)
            kind()
            self.done[kind.__name__] += 1

    def _kinds(self) -> list[tuple[Callable[[], None], float]]:
        return [
            (self.insert, 4),
            (self.copy, 6),
            (self.update, 4),
            (self.delete, 4),
            (self.shorten, 6),
            (self.truncate, 1),
            (self.vacuum, 5),
            (self.freeze, 2),
            (self.vacuum_full, 1),
            (self.recreate, 1),
            (self.reindex, 1),
            (self.move, 1),
            (self.database, 1),
            (self.crash, 0.5),
            (self.restart, 0.5),
            (self.checkpoint, 2),
            (self.nothing, 1),
        ]

    def _table(self) -> str:
        return f"t{self._chance.randrange(_TABLES)}"

    def insert(self) -> None:
        rows = self._chance.randrange(1, 3000)
        self._cluster.psql(
            f"INSERT INTO {self._table()} SELECT g, repeat('i', 150) FROM generate_series(1, {rows}) g"
        )

    def copy(self) -> None:
        """Extend in bulk: pages at the end stay unused, and unlogged."""
        table = self._table()
        with self._cluster.connect() as connection, connection.cursor() as cursor:
            for rows in self._chance.sample([1, 301, 501, 1001, 1501, 3001], 3):
                with cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy:
                    for number in range(rows):
                        copy.write_row((number, "c" * 150))

    def update(self) -> None:
        rest = self._chance.randrange(2, 40)
        self._cluster.psql(f"UPDATE {self._table()} SET id = id + 1 WHERE id % {rest} = 0")

    def delete(self) -> None:
        rest = self._chance.randrange(2, 40)
        self._cluster.psql(f"DELETE FROM {self._table()} WHERE id % {rest} = 0")

    def shorten(self) -> None:
        """Delete the end of a table, so that VACUUM cuts it off; often COPY lets it grow again at once."""
        table = self._table()
        part = self._chance.choice([0.3, 0.7, 0.9])
        self._cluster.psql(
            f"DELETE FROM {table} WHERE ctid >= format('(%s,0)', "
            f"(pg_relation_size('{table}') / 8192 * {part})::int)::tid"
        )
        self._cluster.psql(f"VACUUM {table}")

    def truncate(self) -> None:
        self._cluster.psql(f"TRUNCATE {self._table()}")

    def vacuum(self) -> None:
        self._cluster.psql(f"VACUUM {self._table()}")

    def freeze(self) -> None:
        self._cluster.psql(f"VACUUM (FREEZE) {self._table()}")

    def vacuum_full(self) -> None:
        self._cluster.psql(f"VACUUM FULL {self._table()}")

    def recreate(self) -> None:
        table = self._table()
        self._cluster.psql(
            f"DROP TABLE {table}; CREATE TABLE {table} (id int, pad text); CREATE INDEX ON {table} (id);"
            f"INSERT INTO {table} SELECT g, repeat('n', 150) FROM generate_series(1, 4000) g"
        )

    def reindex(self) -> None:
        self._cluster.psql(f"REINDEX TABLE {self._table()}")

    def move(self) -> None:
        where = self._chance.choice(["aside", "pg_default"])
        self._cluster.psql(f"ALTER TABLE {self._table()} SET TABLESPACE {where}")

    def database(self) -> None:
        """A database by either strategy; the one before it goes."""
        self._databases += 1
        strategy = self._chance.choice(["wal_log", "file_copy"])
        self._cluster.psql(f"DROP DATABASE IF EXISTS d{self._databases - 1}")
        self._cluster.psql(f"CREATE DATABASE d{self._databases} TEMPLATE template0 STRATEGY {strategy}")

    def crash(self) -> None:
        self._cluster.kill9()
        self._cluster.start()

    def restart(self) -> None:
        self._cluster.restart()

    def checkpoint(self) -> None:
        self._cluster.psql("CHECKPOINT")

    def nothing(self) -> None:
        """Two backups with nothing between them."""
