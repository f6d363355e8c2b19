"""Tables out of a real backup: whatever they are called and made of, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgproof.backup import BackupManager
from pgproof.errors import PreconditionError
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import target_from
from pgproof.model.table_rescue import RescueReport
from pgproof.recovery import RecoveryManager
from tests.support import machine
from tests.support.recovery_world import RecoveryWorld
from tests.wal.places import config_file

HOSTILE = '"a ""b\n.c"."x""; DROP TABLE u; --\n\\! touch /tmp/p %s {}"'
_APP = f"""
CREATE DATABASE app;
\\connect app
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 10);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent int NOT NULL REFERENCES parent, s serial, m mood,
    t text COLLATE "C" DEFAULT 'none' CHECK (t <> ''), g text GENERATED ALWAYS AS (t || '!') STORED,
    span int4range, EXCLUDE USING gist (span WITH &&));
CREATE INDEX "odd USING" ON orders (lower(t), m); CREATE UNIQUE INDEX ON orders (s) WHERE s > 5;
CREATE TRIGGER nothing BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION nothing();
INSERT INTO orders (parent, m, t, span)
    SELECT 1 + g % 10, 'happy', repeat(md5(g::text), 1 + g % 200), int4range(g, g + 1) FROM generate_series(1, 3000) g;
CREATE TABLE events (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE events_2_all PARTITION OF events_2 FOR VALUES FROM (0) TO (10000);
INSERT INTO events SELECT g, 1 + g % 2 FROM generate_series(1, 500) g;
CREATE TABLE base (id int); CREATE TABLE derived () INHERITS (base);
INSERT INTO base VALUES (1), (2); INSERT INTO derived VALUES (3);
CREATE UNLOGGED TABLE fleeting (id int); CREATE TABLE u (id int);
CREATE SCHEMA "a ""b\n.c";
CREATE TABLE {HOSTILE} ("t" int PRIMARY KEY, "%s {{}}" text, "x"" y\nz" text);
INSERT INTO {HOSTILE} SELECT g, E'line\\n\\\\.\\n', NULL FROM generate_series(1, 100) g;
CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C';
\\connect bytes
CREATE TABLE raw (id int PRIMARY KEY, t text); INSERT INTO raw SELECT g, E'\\xff\\xfe' || g FROM generate_series(1, 50) g;
"""
_DAMAGE = f"""
DROP TABLE orders; DROP TYPE mood; DELETE FROM events WHERE id <= 100; DELETE FROM base; DROP TABLE u;
DELETE FROM {HOSTILE} WHERE t <= 7;
\\connect bytes
DELETE FROM raw WHERE id <= 5;
"""


@dataclass
class Place:
    world: RecoveryWorld
    before: Lsn

    def manager(self, database: str = "app") -> RecoveryManager:
        postgres = self.world.cluster.config(database=database)
        return RecoveryManager(postgres, BackupManager(postgres, self.world.config))

    def rescue(self, table: str, database: str = "app", **options: Any) -> RescueReport:
        request = RecoveryRequest(target_from(lsn=self.before))
        return asyncio.run(self.manager(database).rescue_table(table, request=request, **options))

    def psql(self, sql: str, database: str = "app") -> str:
        return self.world.cluster.psql(sql, database)


@pytest.fixture(scope="module", params=[15, 18])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with RecoveryWorld(request.param) as world:
        world.cluster.psql(_APP)
        world.backup()
        world.cluster.psql("UPDATE parent SET id = id", "app")
        before = world.cluster.insert_lsn()
        world.cluster.psql(_DAMAGE, "app")
        world.switch(world.cluster)
        world.push()
        yield Place(world, before)


on_18 = pytest.mark.parametrize("place", [18], indirect=True)


def test_a_table_that_was_dropped(place: Place) -> None:
    with pytest.raises(PreconditionError, match="type or a collation") as refused:
        place.rescue("public.orders")
    assert "mood" in str(refused.value)
    place.psql("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    report = place.rescue("public.orders", into="orders")
    assert report.comparison is None and report.rows == 3000
    assert place.psql(
        "SELECT count(*), sum(id), sum(length(g)) FROM orders WHERE g = t || '!'"
    ) == place.psql(
        "SELECT 3000, 3000 * 3001 / 2, sum(32 * (1 + g % 200) + 1) FROM generate_series(1, 3000) g"
    )
    orders = "'orders'::regclass"
    indexes = f"SELECT count(*), count(*) FILTER (WHERE indisunique) FROM pg_index WHERE indrelid = {orders}"
    assert place.psql(indexes) == "4|2"
    checks = f"SELECT string_agg(contype, '' ORDER BY contype) FROM pg_constraint WHERE conrelid = {orders}"
    assert place.psql(f"{checks} AND contype <> 'n'") == "cpx"
    column = (
        "SELECT collation_name, column_default FROM information_schema.columns WHERE table_name = 'orders'"
    )
    assert place.psql(f"{column} AND column_name = 't'") == "C|'none'::text"
    missing = {each.what: each.statement for each in report.left_out}
    assert sorted(missing) == [
        "computed column g", "default of column s", "foreign key orders_parent_fkey", "identity column id", "trigger nothing",
    ]  # fmt: skip
    place.psql(missing["foreign key orders_parent_fkey"])
    place.psql(missing["trigger nothing"])
    assert place.psql("SELECT obj_description('orders'::regclass)").startswith("public.orders as of lsn ")
    place.psql("DROP TABLE orders; DROP TYPE mood")


def test_hostile_names(place: Place) -> None:
    report = place.rescue(HOSTILE)
    assert report.comparison is not None and report.comparison.missing == 7
    assert report.comparison.first[0].backup == ("1", "line\n\\.\n", None)
    asyncio.run(place.manager().merge_rescued(report.table, report.rescued, "missing"))
    assert place.psql(f"SELECT count(*), sum(t) FROM {HOSTILE}") == "100|5050"
    place.psql(f"DROP TABLE {report.rescued}; DELETE FROM {HOSTILE} WHERE t <= 7")


@on_18
def test_all_partitions_come_into_one_table_and_heirs_do_not(place: Place) -> None:
    report = place.rescue("public.events")
    assert report.rows == 500
    assert report.comparison is not None and report.comparison.missing == 100
    base = place.rescue("public.base")
    assert base.rows == 2
    assert base.comparison is not None and (base.comparison.missing, base.comparison.new) == (2, 0)
    place.psql(f"DROP TABLE {report.rescued}, {base.rescued}")


@on_18
def test_bytes_that_are_text_in_no_encoding(place: Place) -> None:
    report = place.rescue("public.raw", "bytes", rows_shown=0)
    assert report.comparison is not None and report.comparison.missing == 5
    asyncio.run(place.manager("bytes").merge_rescued(report.table, report.rescued, "missing"))
    assert place.psql("SELECT count(*) FROM raw WHERE t = E'\\xff\\xfe' || id", "bytes") == "50"
    place.psql(f"DROP TABLE {report.rescued}; DELETE FROM raw WHERE id <= 5", "bytes")


@on_18
def test_what_cannot_be_rescued_is_refused(place: Place) -> None:
    for table, words in [
        ("public.fleeting", "unlogged"),
        ("public.Orders", "did you mean public.orders"),
        ("nowhere.t", "schema for the rescued table does not exist"),
    ]:
        with pytest.raises(PreconditionError) as refused:
            place.rescue(table)
        assert words in str(refused.value)
    with pytest.raises(PreconditionError, match="exists already"):
        place.rescue("public.base", into="parent")
    with pytest.raises(PreconditionError, match="cannot be written"):
        place.rescue("public.base", csv=place.world.root / "none" / "rows.csv")
    place.psql("CREATE DATABASE late", "postgres")
    with pytest.raises(PreconditionError, match="no such database at this point"):
        place.rescue("public.base", "late")
    assert left_over(place) == "0"


_POINTS = ["scratch.written", "rescue.created", "rescue.copying", "rescue.bringing"]
_MERGING = ["rescue.inserted", "rescue.merged"]


@on_18
@pytest.mark.parametrize("point", _POINTS)
def test_killed_while_it_brings_the_table_there_is_none(place: Place, point: str) -> None:
    done = killed_at(point, place, ["--to-lsn", str(place.before), "--merge", "both", "--yes"])
    assert done.returncode == -9, done.stderr
    wait_for_nobody(place)
    assert left_over(place) == "0"
    report = place.rescue("public.events")
    place.psql(f"DROP TABLE {report.rescued}")


@on_18
@pytest.mark.parametrize("point", [*_MERGING, "rescue.placed", "rescue.committed"])
def test_killed_around_a_merge_it_is_done_or_not(place: Place, point: str) -> None:
    done = killed_at(point, place, ["--to-lsn", str(place.before), "--merge", "both", "--yes"])
    assert done.returncode == -9, done.stderr
    wait_for_nobody(place)
    assert place.psql("SELECT count(*) FROM events") == ("500" if point == "rescue.committed" else "400")
    name = place.psql("SELECT 'public.' || relname FROM pg_class WHERE relname ~ '^events_rescued_[0-9]+$'")
    asyncio.run(place.manager().merge_rescued("public.events", name, "both"))
    assert place.psql("SELECT count(*), sum(id) FROM events") == f"500|{500 * 501 // 2}"
    place.psql(f"DROP TABLE {name}; DELETE FROM events WHERE id <= 100")


def left_over(place: Place) -> str:
    return place.psql("SELECT count(*) FROM pg_class WHERE relname ~ 'rescued'")


def wait_for_nobody(place: Place) -> None:
    """The server notices that a client is gone when it reads or writes next."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgproof_rescue'"
    machine.wait_until(lambda: place.psql(query) == "0", "the killed one's session to end")


def killed_at(point: str, place: Place, options: list[str]) -> subprocess.CompletedProcess[str]:
    cluster = place.world.cluster
    where = [
        "--host",
        str(cluster.socket_dir),
        "--port",
        str(cluster.port),
        "--user",
        "postgres",
        "--dbname",
        "app",
    ]
    config = config_file(place.world.config, place.world.root / "config.toml")
    program = Path(sys.executable).parent / "pgproof"
    return subprocess.run(
        [program, "restore", "--table", "public.events", "--config", str(config), *where, *options],
        env={**os.environ, "PGPROOF_FAILPOINTS": f"{point}=kill"},
        capture_output=True,
        text=True,
        timeout=120,
    )
