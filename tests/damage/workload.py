"""Known harm among harmless traffic, on a real server, and what `find-damage` has to say about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pgproof.model.harm import Harm, What
from pgproof.model.lsn import Lsn
from tests.support import machine
from tests.support.postgres import Cluster

_BEFORE = """
CREATE DATABASE app;
CREATE DATABASE "old data";
CREATE ROLE landlord;
CREATE DATABASE let OWNER landlord;
\\connect app
CREATE TABLE customers (id int PRIMARY KEY, name text);
INSERT INTO customers SELECT g, 'customer ' || g FROM generate_series(1, 700) g;
CREATE TABLE items (id serial PRIMARY KEY, body text);
INSERT INTO items (body) SELECT repeat('x', 50) FROM generate_series(1, 800) g;
CREATE TABLE stock (id int PRIMARY KEY, n int);
INSERT INTO stock SELECT g, g FROM generate_series(1, 400) g;
CREATE TABLE orders (id int PRIMARY KEY, state text);
INSERT INTO orders SELECT g, 'new' FROM generate_series(1, 30000) g;
CREATE TABLE "Docs" (id int PRIMARY KEY, body text);
ALTER TABLE "Docs" ALTER body SET STORAGE EXTERNAL;
INSERT INTO "Docs" SELECT g, repeat(md5(g::text), 160) FROM generate_series(1, 1500) g;
CREATE TABLE events (id int, day int) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
CREATE TABLE events_3 PARTITION OF events FOR VALUES IN (3) PARTITION BY RANGE (id);
CREATE TABLE events_3_low PARTITION OF events_3 FOR VALUES FROM (0) TO (3000);
CREATE TABLE events_3_high PARTITION OF events_3 FOR VALUES FROM (3000) TO (9000);
INSERT INTO events SELECT g, 1 + g % 3 FROM generate_series(1, 6000) g;
CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
INSERT INTO scratch SELECT generate_series(1, 2000);
CREATE TABLE rewritten (id int PRIMARY KEY, n int);
INSERT INTO rewritten SELECT g, g FROM generate_series(1, 2000) g;
CREATE MATERIALIZED VIEW summary AS SELECT id, state FROM orders WHERE id <= 2000;
CREATE UNIQUE INDEX ON summary (id);
CREATE TABLE outlived (id int PRIMARY KEY, t text);
INSERT INTO outlived SELECT g, 'x' FROM generate_series(1, 300) g;
SELECT count(lo_from_bytea(0, 'large object')) FROM generate_series(1, 1200);
ANALYZE;
"""

# What happens every day and destroys nothing that was there.
_HARMLESS = [
    "INSERT INTO orders SELECT g, 'more' FROM generate_series(30001, 33000) g",
    "DELETE FROM orders WHERE id > 32500",
    "VACUUM FULL rewritten",
    "CLUSTER rewritten USING rewritten_pkey",
    "REINDEX TABLE rewritten",
    "REINDEX TABLE CONCURRENTLY rewritten",
    "ALTER TABLE rewritten ALTER n TYPE bigint",
    "ALTER TABLE rewritten ADD COLUMN t text; CREATE TABLE empty (i int, t text)",
    # Its rows went when those of the table did.
    "REFRESH MATERIALIZED VIEW CONCURRENTLY summary",
    "UPDATE rewritten SET n = n + 1 WHERE id <= 900",
    "REFRESH MATERIALIZED VIEW summary",
    "CREATE TEMP TABLE t AS SELECT g FROM generate_series(1, 5000) g; DELETE FROM t; TRUNCATE t; DROP TABLE t",
    "CREATE INDEX extra ON orders (state); DROP INDEX extra",
    "DELETE FROM scratch; TRUNCATE scratch; DROP TABLE scratch",
    "BEGIN; CREATE TABLE staging AS SELECT * FROM orders LIMIT 3000; DELETE FROM staging; DROP TABLE staging; COMMIT",
    "BEGIN; CREATE TABLE staged (i int); INSERT INTO staged SELECT generate_series(1, 2000); TRUNCATE staged; COMMIT",
    "INSERT INTO stock SELECT g, 0 FROM generate_series(1, 400) g ON CONFLICT DO NOTHING",
    "BEGIN; DELETE FROM orders WHERE id <= 5000; ROLLBACK",
    "BEGIN; TRUNCATE rewritten; DROP TABLE stock; ROLLBACK",
    "BEGIN; DELETE FROM orders WHERE id <= 5000; PREPARE TRANSACTION 'never; subxacts: 5; rels: base/5/1'",
    "ROLLBACK PREPARED 'never; subxacts: 5; rels: base/5/1'",
    "CREATE VIEW seen AS SELECT 1 AS one; DROP VIEW seen",
    "CREATE TYPE pair AS (a int, b int); DROP TYPE pair",
    "ANALYZE",
    "ALTER SEQUENCE items_id_seq RESTART WITH 5000",
    "ALTER TABLE empty SET TABLESPACE other_place; ALTER TABLE stock SET TABLESPACE other_place",
    "VACUUM",
]


@dataclass
class Step:
    """What was done, what of it is harm, and the position of the WAL before it was begun."""

    sql: str
    harms: list[Harm] = field(default_factory=list)
    begun: Lsn = field(default_factory=lambda: Lsn(0))


def before(cluster: Cluster) -> Path:
    """The world as the backup finds it; returns the place of its tablespace."""
    cluster.psql(_BEFORE)
    place = machine.new_dir("ts", owned_by_service=True)
    cluster.psql(f"CREATE TABLESPACE other_place LOCATION '{place}'")
    return place


def table(
    what: What, relation: str, rows: int | None, *, about: int | None = None, relations: int = 1
) -> Harm:
    return Harm(what, "app", relation, rows, about, relations)


def steps() -> list[Step]:
    """Harm with as much harmless traffic before, between and behind."""
    deleted, updated, truncated = What.DELETE, What.UPDATE, What.TRUNCATE
    harmful = [
        Step("DROP TABLE customers", [table(What.DROP_TABLE, "public.customers", None, about=700)]),
        Step("TRUNCATE items RESTART IDENTITY", [table(truncated, "public.items", None)]),
        Step("DELETE FROM orders WHERE id <= 5000", [table(deleted, "public.orders", 5000)]),
        Step(
            "UPDATE orders SET state = 'x' WHERE id BETWEEN 27001 AND 30000",
            [table(updated, "public.orders", 3000)],
        ),
        Step('DROP DATABASE "old data"', [Harm(What.DROP_DATABASE, "old data", "")]),
        Step("DROP DATABASE let", [Harm(What.DROP_DATABASE, "let", "")]),
        Step(
            "BEGIN; DELETE FROM orders WHERE id BETWEEN 5001 AND 5600; SAVEPOINT a;"
            "DELETE FROM orders WHERE id BETWEEN 6001 AND 6700; ROLLBACK TO a; SAVEPOINT b;"
            "DELETE FROM orders WHERE id BETWEEN 7001 AND 7500; SAVEPOINT c; UPDATE stock SET n = 0 WHERE id <= 7;"
            "RELEASE b; COMMIT",
            [table(deleted, "public.orders", 1100), table(updated, "public.stock", 7)],
        ),
        Step(
            "BEGIN; SAVEPOINT a; DELETE FROM orders WHERE id BETWEEN 8001 AND 9500; RELEASE a;"
            "DROP TABLE outlived; PREPARE TRANSACTION 'p'"
        ),
        Step(
            "COMMIT PREPARED 'p'",
            [
                table(What.DROP_TABLE, "public.outlived", None, about=300),
                table(deleted, "public.orders", 1500),
            ],
        ),
        Step("DELETE FROM events WHERE id % 2 = 0", [table(deleted, "public.events", 3000, relations=4)]),
        Step("UPDATE events SET day = 2 WHERE day = 1", [table(updated, "public.events", 1000, relations=1)]),
        Step('DELETE FROM "Docs" WHERE id <= 1200', [table(deleted, 'public."Docs"', 1200)]),
        Step(
            "BEGIN; CREATE TABLE kept AS SELECT * FROM stock; TRUNCATE stock; INSERT INTO stock SELECT * FROM kept; COMMIT",
            [table(truncated, "public.stock", None)],
        ),
        Step("TRUNCATE events", [table(truncated, "public.events", None, about=6000, relations=4)]),
        Step("CREATE TABLE late AS SELECT g AS i FROM generate_series(1, 3000) g"),
        Step("DELETE FROM late WHERE i <= 1000", [table(deleted, "public.late", 1000)]),
        Step("DROP TABLE events", [table(What.DROP_TABLE, "public.events", None, about=6000, relations=4)]),
        Step(
            "SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata",
            [table(deleted, "pg_catalog.pg_largeobject", 1200)],
        ),
        Step("DROP MATERIALIZED VIEW summary", [table(What.DROP_VIEW, "public.summary", None, about=2000)]),
    ]
    found: list[Step] = []
    harmless = list(_HARMLESS)
    for step in harmful:
        found += [Step(sql) for sql in harmless[:2]]
        del harmless[:2]
        found.append(step)
    return found + [Step(sql) for sql in harmless]


def run(cluster: Cluster, done: list[Step]) -> None:
    for step in done:
        step.begun = cluster.insert_lsn()
        # Each statement by itself, unless it says BEGIN.
        cluster.psql(step.sql.replace("; ", ";\n") if "'never" not in step.sql else step.sql, "app")
