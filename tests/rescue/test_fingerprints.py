"""Fingerprints: equal where the rows are, whatever happened to the files; different by one byte of one row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgproof.model.fingerprints import DatabaseFingerprint, FingerprintComparison, compare_databases
from pgproof.model.job import Job
from pgproof.postgres.fingerprints import compare_connections, fingerprint_database
from tests.support.postgres import Cluster

_TABLES = """
CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE "odd ""t" ("t" int PRIMARY KEY, b bytea, f float8, r real, j json, jb jsonb, z timestamptz, i interval,
    m mood, p pair, d positive, a text[], n numeric, c regclass, mo money, ts tsvector, ip inet, rg tstzrange,
    g int GENERATED ALWAYS AS (t * 2) STORED);
INSERT INTO "odd ""t" SELECT g, decode(md5(g::text), 'hex'), 1 / g::float8, 1 / g::real, '{"a":  1}', '{"a": 1}',
    '2026-11-25 12:00Z'::timestamptz + g * '1 day'::interval, g * '1 day 2 hours'::interval, 'happy',
    ROW(g, 'x"y'::text)::pair, g, ARRAY['a', NULL, 'c,d'], g / 7.0, 'pg_catalog.pg_class',
    12.5, 'a b', '10.0.0.1', tstzrange(NULL, '2026-11-25 12:00Z')
    FROM generate_series(1, 500) g;
CREATE TABLE heap (a int, b text); INSERT INTO heap SELECT g % 5, repeat('x', g * 20) FROM generate_series(1, 400) g;
CREATE TABLE parted (id int, day int) PARTITION BY LIST (day);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1); CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
INSERT INTO parted SELECT g, 1 + g % 2 FROM generate_series(1, 100) g;
CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM heap; CREATE MATERIALIZED VIEW unseen AS SELECT 1 WITH NO DATA;
CREATE UNLOGGED TABLE fleeting AS SELECT 1;
SELECT lo_from_bytea(0, 'a large object');
"""


@pytest.fixture(scope="module", params=[15, 17, 18])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(request.param) as running:
        yield running


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    cluster.psql("CREATE DATABASE d")
    cluster.psql(_TABLES, "d")
    yield "d"
    cluster.psql("DROP DATABASE d")


def fingerprint(cluster: Cluster, database: str, **options: Any) -> DatabaseFingerprint:
    with cluster.connect(database) as connection:
        return fingerprint_database(connection, Job(), **options)


def compared(cluster: Cluster, before: DatabaseFingerprint) -> FingerprintComparison:
    return compare_databases(before, fingerprint(cluster, before.database, rates=before.rates()))


def test_what_moves_rows_changes_nothing(cluster: Cluster, database: str) -> None:
    before = fingerprint(cluster, database)
    names = {table.name for table in before.tables}
    assert names == {'odd "t', "heap", "parted_1", "parted_2", "seen", "pg_largeobject"}
    assert before == DatabaseFingerprint.from_json(before.to_json())
    with cluster.connect(database) as connection:
        for command in (
            "DELETE FROM heap WHERE a = 1; INSERT INTO heap SELECT 1, repeat('x', g * 20) "
            "FROM generate_series(1, 400) g WHERE g % 5 = 1",
            "VACUUM FULL heap",
            'CLUSTER "odd ""t" USING "odd ""t_pkey"',
            "SET DateStyle = 'German'",
            "SET extra_float_digits = -5",
            "SET bytea_output = 'escape'",
            "SET IntervalStyle = 'iso_8601'",
            "SET TimeZone = 'Asia/Tokyo'",
        ):
            connection.execute(command.encode())
        after = fingerprint_database(connection, Job())
    found = compare_databases(before, after)
    assert found.same and found.rows == before.rows and not found.not_compared, list(found.lines())


@pytest.mark.parametrize(
    ("change", "table", "words"),
    [
        ("UPDATE heap SET b = 'y' || substr(b, 2) WHERE ctid = '(0,3)'", "heap", "other ones"),
        ("DELETE FROM heap WHERE ctid = '(0,3)'", "heap", "399 rows in place of 400"),
        ("INSERT INTO heap SELECT * FROM heap WHERE ctid = '(0,3)'", "heap", "401 rows in place of 400"),
        ("""UPDATE "odd ""t" SET n = (n::text || '0')::numeric WHERE t = 7""", 'odd "t', "other ones"),
        ("""UPDATE "odd ""t" SET j = '{"a": 1}' WHERE t = 7""", 'odd "t', "other ones"),
        ("""UPDATE "odd ""t" SET b = set_byte(b, 3, 1) WHERE t = 7""", 'odd "t', "other ones"),
        ("UPDATE parted SET day = 1 WHERE id = 1", "parted_1", "51 rows in place of 50"),
        ("DROP TABLE parted_2", "parted_2", "missing"),
        ("CREATE TABLE late (id int)", "late", "was not in the source"),
        (
            "SELECT lowrite(lo_open(oid, 131072), 'A') FROM pg_largeobject_metadata",
            "pg_largeobject",
            "other ones",
        ),
    ],
)
def test_one_byte_of_one_row_is_seen(
    cluster: Cluster, database: str, change: str, table: str, words: str
) -> None:
    before = fingerprint(cluster, database)
    cluster.psql(change, database)
    found = compared(cluster, before)
    assert not found.same
    assert words in next(each.what for each in found.differences if each.name == table)


def test_large_tables_are_hashed_by_a_sample_of_keys(cluster: Cluster, database: str) -> None:
    before = fingerprint(cluster, database, hashed_bytes=50_000)
    rates = {table.name: table.one_in for table in before.tables}
    # Nothing tells rows of a table without a key apart before they are hashed.
    assert rates['odd "t'] >= 2 and rates["heap"] == 1
    assert compared(cluster, before).same and compared(cluster, before).sampled == 1
    cluster.psql('DELETE FROM "odd ""t" WHERE t = 9', database)
    assert not compared(cluster, before).same, "all rows are counted"
    cluster.psql('INSERT INTO "odd ""t" (t) VALUES (9)', database)
    seen = 0
    for key in range(1, 60):
        cluster.psql(f'UPDATE "odd ""t" SET d = 1000 + t WHERE t = {key}', database)
        seen += not compared(cluster, before).same
        cluster.psql(f'UPDATE "odd ""t" SET d = t WHERE t = {key} AND t <> 9', database)
        if seen:
            break
    assert seen


def test_what_cannot_be_read_is_told(cluster: Cluster, database: str) -> None:
    cluster.psql(
        "CREATE ROLE reader LOGIN; GRANT SELECT ON heap, parted_1, seen TO reader; "
        "ALTER TABLE parted_1 ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON parted_1 USING (id > 5)",
        database,
    )
    try:
        with cluster.connect(database, user="reader") as connection:
            found = fingerprint_database(connection, Job())
    finally:
        cluster.psql("DROP OWNED BY reader; DROP ROLE reader", database)
    assert {table.name for table in found.tables} == {"heap", "seen"}
    reasons = {table.name: table.reason for table in found.unread}
    assert set(reasons) == {'odd "t', "parted_1", "parted_2", "pg_largeobject"}
    assert "no right" in reasons["parted_2"] and "row-level security" in reasons["parted_1"]
    compared_then = compare_databases(found, fingerprint(cluster, database, rates=found.rates()))
    assert compared_then.same and len(compared_then.not_compared) == 4


def test_rows_that_a_snapshot_cannot_see_any_more_are_no_difference(cluster: Cluster, database: str) -> None:
    with cluster.connect(database, autocommit=False) as old, cluster.connect(database) as now:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT 1")
        now.execute("TRUNCATE heap")
        now.execute("INSERT INTO parted VALUES (1000, 1)")
        before = fingerprint_database(old, Job())
        assert [(each.name, each.reason) for each in before.unread] == [
            ("heap", "it was truncated or rewritten meanwhile")
        ]
        with now.transaction():
            found = compare_connections(old, now, Job())
    assert [each.name for each in found.differences] == ["parted_1"]


def test_a_dump_restored_into_another_major_is_the_same(cluster: Cluster, database: str) -> None:
    before = fingerprint(cluster, database)
    with Cluster(18) as other:
        other.psql("CREATE DATABASE d")
        archive = other.root / "dump"
        where = ["--host", str(cluster.socket_dir), "--port", str(cluster.port), "--username", "postgres"]
        other.run("pg_dump", "--format=custom", f"--file={archive}", *where, "d")
        other.run("pg_restore", "--exit-on-error", "--dbname=d", str(archive), dbname="d")
        found = compared(other, before)
    assert found.same and found.tables == len(before.tables), list(found.lines())
