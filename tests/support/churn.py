"""A storm of DDL and maintenance: everything that makes, moves, shortens or removes files under a backup."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from tests.support import machine
from tests.support.postgres import Cluster

_TABLES = 6
_ROWS = 400


class Churn:
    """One thread that changes tables and databases of its own until it is stopped.

    It works in the database `churn`; databases that it makes and drops are called `churn_<n>`.
    `done` counts what it did, by the name of the operation. The same seed gives the same order.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.done: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._stopping = threading.Event()
        self._running: Future[None] | None = None
        self._databases = 0

    def start(self, cluster: Cluster) -> Self:
        """Create the database where it is missing and start the storm."""
        assert self._running is None, "the churn is running"
        self._stopping.clear()
        with cluster.connect() as connection:
            if not connection.execute("SELECT FROM pg_database WHERE datname = 'churn'").fetchone():
                connection.execute("CREATE DATABASE churn")
        pool = ThreadPoolExecutor(1, thread_name_prefix="churn")
        self._running = pool.submit(self._storm, cluster)
        pool.shutdown(wait=False)
        return self

    def stop(self) -> None:
        """Stop the storm. Raises what went wrong in it."""
        self._stopping.set()
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def wait_for(self, operations: int, timeout: float = 60) -> None:
        """Wait until so many further operations are done."""
        target = self.done.total() + operations

        def reached() -> bool:
            return self.done.total() >= target or self._running is None or self._running.done()

        machine.wait_until(reached, f"{operations} operations of the churn", timeout)
        if self.done.total() < target:
            self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _storm(self, cluster: Cluster) -> None:
        operations = self._operations()
        with cluster.connect("churn") as connection:
            while not self._stopping.is_set():
                # Each operation once a round, in another order: none is left out by chance.
                for operation in self._chance.sample(operations, len(operations)):
                    if self._stopping.is_set():
                        break
                    operation(connection)
                    self.done[operation.__name__] += 1

    def _operations(self) -> list[Callable[[psycopg.Connection[Any]], None]]:
        return [
            self.create_table,
            self.drop_table,
            self.copy,
            self.copy,
            self.update,
            self.delete_end,
            self.truncate,
            self.rewrite,
            self.add_and_drop_column,
            self.create_index,
            self.reindex,
            self.vacuum,
            self.vacuum_full,
            self.create_and_drop_database,
        ]

    def create_table(self, connection: psycopg.Connection[Any]) -> None:
        self._table(connection)

    def drop_table(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(sql.SQL("DROP TABLE {}").format(self._table(connection)))

    def copy(self, connection: psycopg.Connection[Any]) -> None:
        """Extend a table in bulk."""
        into = sql.SQL("COPY {} (id, pad) FROM STDIN").format(self._table(connection))
        with connection.cursor() as cursor, cursor.copy(into) as copy:
            for number in range(_ROWS):
                copy.write_row((number, self._chance.randbytes(100).hex()))

    def update(self, connection: psycopg.Connection[Any]) -> None:
        table = self._table(connection)
        connection.execute(sql.SQL("UPDATE {} SET id = id + 1 WHERE id % 3 = 0").format(table))

    def delete_end(self, connection: psycopg.Connection[Any]) -> None:
        """Delete a table's last pages, so that the next VACUUM shortens its file."""
        table = self._table(connection)
        query = sql.SQL("DELETE FROM {t} WHERE ctid >= (SELECT max(ctid) FROM {t} WHERE id = 0)")
        connection.execute(query.format(t=table))

    def truncate(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(sql.SQL("TRUNCATE {}").format(self._table(connection)))

    def rewrite(self, connection: psycopg.Connection[Any]) -> None:
        """Change a column's type, which writes the table anew."""
        kind = sql.SQL(self._chance.choice(["int", "bigint", "numeric"]))
        table = self._table(connection)
        connection.execute(sql.SQL("ALTER TABLE {} ALTER id TYPE {}").format(table, kind))

    def add_and_drop_column(self, connection: psycopg.Connection[Any]) -> None:
        table = self._table(connection)
        connection.execute(sql.SQL("ALTER TABLE {} ADD extra text DEFAULT clock_timestamp()").format(table))
        connection.execute(sql.SQL("ALTER TABLE {} DROP extra").format(table))

    def create_index(self, connection: psycopg.Connection[Any]) -> None:
        concurrently = sql.SQL(self._chance.choice(["", "CONCURRENTLY"]))
        table = self._table(connection)
        connection.execute(sql.SQL("CREATE INDEX {} ON {} (id)").format(concurrently, table))

    def reindex(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(sql.SQL("REINDEX TABLE {}").format(self._table(connection)))

    def vacuum(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(self._table(connection)))

    def vacuum_full(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(sql.SQL("VACUUM FULL {}").format(self._table(connection)))

    def create_and_drop_database(self, connection: psycopg.Connection[Any]) -> None:
        """Make a database by either strategy, and drop the one made before it."""
        self._databases += 1
        strategy = sql.SQL(self._chance.choice(["wal_log", "file_copy"]))
        name = sql.Identifier(f"churn_{self._databases}")
        before = sql.Identifier(f"churn_{self._databases - 1}")
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} (FORCE)").format(name))
        # From template0, to which nobody connects: a session in template1 would be in the way.
        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 STRATEGY {}")
        connection.execute(create.format(name, strategy))
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} (FORCE)").format(before))

    def _table(self, connection: psycopg.Connection[Any]) -> sql.Identifier:
        """One of the tables, made where it is missing."""
        name = sql.Identifier(f"t{self._chance.randrange(_TABLES)}")
        connection.execute(sql.SQL("CREATE TABLE IF NOT EXISTS {} (id int, pad text)").format(name))
        return name
