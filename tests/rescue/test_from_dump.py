"""Tables out of logical backups: the same as out of physical ones, without a point in time."""

from __future__ import annotations

import asyncio

import pytest

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupMethod
from pgproof.model.dump_list import list_for_table
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import target_from
from pgproof.model.table_names import TableName
from pgproof.recovery import RecoveryManager
from tests.rescue.test_rescue import HOSTILE
from tests.round_trip.conftest import OpenDoors, front_doors
from tests.support.postgres import ClusterFactory

__all__ = ["front_doors"]
_APP = f"""
CREATE DATABASE app;
CREATE ROLE clerk;
\\connect app
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 10);
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent int REFERENCES parent, m mood,
    t text CHECK (t <> ''), g text GENERATED ALWAYS AS (t || '!') STORED);
ALTER TABLE orders OWNER TO clerk; ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON orders TO clerk USING (true); GRANT SELECT ON orders TO PUBLIC;
INSERT INTO orders (parent, m, t) SELECT 1 + g % 10, 'happy', 'row ' || g FROM generate_series(1, 20000) g;
CREATE TABLE truth AS SELECT * FROM orders;
CREATE MATERIALIZED VIEW counted AS SELECT 1 / count(*) FROM parent;
CREATE TABLE events (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
INSERT INTO events SELECT g, 1 + g % 2 FROM generate_series(1, 500) g;
CREATE SCHEMA "a ""b\n.c"; CREATE TABLE u ();
CREATE TABLE {HOSTILE} (t int PRIMARY KEY, "%s {{}}" text);
INSERT INTO {HOSTILE} SELECT g, E'line\\n\\\\.\\n' FROM generate_series(1, 100) g;
"""
_DAMAGE = f"""
DELETE FROM orders WHERE id <= 5000; UPDATE orders SET t = 'x' WHERE id BETWEEN 10001 AND 13000;
DELETE FROM {HOSTILE} WHERE t <= 7; DELETE FROM events WHERE id <= 100;
"""


@pytest.mark.parametrize("major", [15, 18])
def test_what_was_deleted_and_changed_comes_back_from_a_dump(
    major: int, cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    cluster = cluster_factory(major)
    cluster.psql(_APP)
    doors = front_doors(cluster, method=BackupMethod.LOGICAL)
    backup = doors.backup()
    cluster.psql(_DAMAGE, "app")
    manager = RecoveryManager(cluster.config(database="app"), doors.manager())
    report = asyncio.run(manager.rescue_table("public.orders", "latest"))
    assert report.backup_id == backup.backup_id and report.rows == 20000
    assert report.comparison is not None
    assert (report.comparison.missing, report.comparison.changed) == (5000, 3000)
    # What the rescued table lacks is told as out of a physical backup.
    left_out = {each.what: each.statement for each in report.left_out}
    assert sorted(left_out) == [
        "computed column g", "foreign key orders_parent_fkey", "identity column id", "policy p", "privileges",
    ]  # fmt: skip
    cluster.psql("ALTER TABLE orders DROP CONSTRAINT orders_parent_fkey; DROP POLICY p ON orders", "app")
    cluster.psql("; ".join(left_out[what] for what in left_out if left_out[what]), "app")
    asyncio.run(manager.merge_rescued(report.table, report.rescued, "both"))
    assert cluster.psql("SELECT count(*) FROM (TABLE orders EXCEPT ALL TABLE truth) d", "app") == "0"
    assert cluster.psql("SELECT count(*) FROM orders", "app") == "20000"
    for name, rows, missing in ((HOSTILE, 100, 7), ("public.events", 500, 100)):
        found = asyncio.run(manager.rescue_table(name))
        assert found.comparison is not None
        assert (found.rows, found.comparison.missing) == (rows, missing)
    with pytest.raises(PreconditionError, match="no such table"):
        asyncio.run(manager.rescue_table("public.late"))
    # A dump has one moment only.
    moment = RecoveryRequest(target_from(time="2026-11-25T12:00:00Z"))
    with pytest.raises(PreconditionError):
        asyncio.run(manager.rescue_table("public.orders", "latest", request=moment))


def test_other_tables_rows_are_left_out() -> None:
    listing = "\n".join(
        [
            ";",
            "; Archive created at 2026-11-25",
            "1; 2615 5 SCHEMA - app owner",
            "2; 1259 6 TABLE app orders owner",
            "3; 0 6 TABLE DATA app orders owner",
            "4; 0 7 TABLE DATA app orders_old owner",
            "5; 0 8 TABLE DATA app a b owner",
            "6; 2606 9 CONSTRAINT app orders orders_pkey owner",
            "7; 2606 10 FK CONSTRAINT app orders orders_fkey owner",
            "8; 0 0 ACL app TABLE orders owner",
        ]
    )

    def kept(schema: str, table: str) -> list[str]:
        return [line.split(";")[0] for line in list_for_table(listing, TableName(schema, table)).splitlines()]

    assert kept("app", "orders") == ["1", "2", "3", "6"]
    assert kept("app", "a\nb") == ["1", "2", "5", "6"]
    assert kept("app", "root_of_partitions") == ["1", "2", "3", "4", "5", "6"]
