"""Databases out of real backups into running servers: beside, then swapped, and the old one kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest

from pgproof.actions.restore_database import restore_database
from pgproof.actions.take_backup import take_backup
from pgproof.backup import BackupManager
from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.config import BackupConfig, BackupMethod, BackupType, PostgresConfig
from pgproof.model.database_restore import BuildOptions, DatabaseReport, DatabaseRequest
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import BACKUP_END, target_from
from pgproof.model.report import Progress
from pgproof.postgres.database_building import building
from pgproof.recovery import RecoveryManager
from tests.support.faults import run_armed
from tests.support.recovery_world import RecoveryWorld

ODD = 'odd "name"; DROP DATABASE app; --'
_APP = """
CREATE ROLE shop LOGIN; CREATE ROLE reader LOGIN;
CREATE DATABASE app OWNER shop ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
COMMENT ON DATABASE app IS 'the shop''s';
REVOKE CONNECT ON DATABASE app FROM PUBLIC; GRANT CONNECT ON DATABASE app TO reader WITH GRANT OPTION;
ALTER DATABASE app SET search_path = "$user", public, "Odd, schema";
ALTER DATABASE app SET work_mem = '7MB'; ALTER DATABASE app SET my.setting = 'it''s \\';
ALTER ROLE reader IN DATABASE app SET statement_timeout = '7s'; ALTER DATABASE app CONNECTION LIMIT 17;
\\connect app
SET ROLE shop;
CREATE TABLE customers (id int PRIMARY KEY, name text); INSERT INTO customers SELECT g, 'c' || g FROM generate_series(1, 500) g;
CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int REFERENCES customers, t text);
INSERT INTO orders (customer, t) SELECT 1 + g % 500, repeat(md5(g::text), 5) FROM generate_series(1, 3000) g;
CREATE INDEX by_customer ON orders (customer); GRANT SELECT ON orders TO reader;
CREATE MATERIALIZED VIEW summary AS SELECT customer, count(*) FROM orders GROUP BY 1;
CREATE UNLOGGED TABLE fleeting (id int);
RESET ROLE;
SELECT lo_from_bytea(4711, 'a large object');
"""
_PROPERTIES = """
SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datconnlimit, datallowconn,
       shobj_description(oid, 'pg_database'),
       (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM aclexplode(datacl) a),
       (SELECT string_agg(setrole::regrole || setconfig::text, ',' ORDER BY setrole) FROM pg_db_role_setting
        WHERE setdatabase = d.oid)
FROM pg_database d WHERE datname = '{}'
"""
DISCONNECT = BuildOptions(disconnect=True)


@dataclass
class Place:
    world: RecoveryWorld
    before: Lsn
    physical: str
    logical: str

    def manager(self, database: str = "app") -> RecoveryManager:
        postgres = self.world.cluster.config(database=database)
        return RecoveryManager(postgres, BackupManager(postgres, self.world.config))

    def restore(self, backup_id: str | None, target: str | None = None, **options: Any) -> DatabaseReport:
        return asyncio.run(self.manager().restore_database(backup_id, target, **options))

    def psql(self, sql: str, database: str = "app") -> str:
        return self.world.cluster.psql(sql, database)

    def databases(self) -> list[str]:
        return self.psql("SELECT datname FROM pg_database ORDER BY 1", "postgres").splitlines()

    def drop(self, *names: str) -> None:
        for name in names:
            quoted = name.replace('"', '""')
            self.psql(f'DROP DATABASE "{quoted}" WITH (FORCE)', "postgres")


@pytest.fixture(scope="module", params=[15, 17, 18])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with RecoveryWorld(request.param) as world:
        world.cluster.psql(_APP)
        physical = world.backup().backup_id
        config = replace(world.config, method=BackupMethod.LOGICAL, databases=("app",))
        logical = take_backup(world.cluster.config(), config, BackupType.FULL, Job()).backup_id
        world.cluster.psql("INSERT INTO customers VALUES (1000, 'late')", "app")
        before = world.cluster.insert_lsn()
        world.cluster.psql("DROP TABLE orders CASCADE; DELETE FROM customers", "app")
        world.switch(world.cluster)
        world.push()
        yield Place(world, before, physical, logical)


@pytest.fixture(autouse=True)
def emptied(place: Place) -> None:
    """Tests come in any order, and each finds the mistake that they undo."""
    place.psql("DROP TABLE IF EXISTS orders CASCADE; DELETE FROM customers")


on_18 = pytest.mark.parametrize("place", [18], indirect=True)


def test_over_the_live_one_at_a_point(place: Place) -> None:
    before = place.psql(_PROPERTIES.format("app"), "postgres")
    report = place.restore(None, request=RecoveryRequest(target_from(lsn=place.before)))
    try:
        assert report.kept is not None and report.kept.startswith("app_before_2")
        assert place.psql("SELECT count(*) FROM customers") == "501"
        assert place.psql("SELECT count(*), sum(length(t)) FROM orders") == "3000|480000"
        assert place.psql("SELECT count(*) FROM summary") == "500"
        assert place.psql("SELECT lo_get(4711)") == "\\x61206c61726765206f626a656374"
        assert place.psql(_PROPERTIES.format("app"), "postgres") == before
        assert place.psql("SELECT count(*) FROM customers", report.kept) == "0"
        assert report.comparison is not None and report.comparison.same and report.comparison.rows >= 4000
        assert place.psql("SELECT reltuples FROM pg_class WHERE relname = 'orders'") == "3000"
        assert place.psql("SHOW search_path") == '"$user", public, "Odd, schema"'
        assert any("unlogged" in note for note in report.notes)
        assert not any(name.startswith("pgproof_") for name in place.databases())
    finally:
        place.drop("app")
        place.psql(f"ALTER DATABASE {report.kept} RENAME TO app", "postgres")


def test_a_logical_backup_over_the_live_one(place: Place) -> None:
    before = place.psql(_PROPERTIES.format("app"), "postgres")
    report = place.restore(place.logical, drop_old=True)
    assert (report.kept, report.dropped) == (None, True)
    assert place.psql("SELECT count(*) FROM orders") == "3000"
    assert place.psql(_PROPERTIES.format("app"), "postgres") == before
    place.psql("DROP TABLE orders CASCADE; DELETE FROM customers")


@on_18
def test_beside_under_another_name(place: Place) -> None:
    for backup_id in (place.physical, place.logical):
        end = RecoveryRequest(BACKUP_END if backup_id == place.physical else None)
        report = place.restore(backup_id, ODD, request=end)
        assert report.kept is None and report.target == ODD
        assert place.psql("SELECT count(*) FROM orders", ODD) == "3000"
        place.drop(ODD)


@on_18
def test_connections_are_named_or_ended(place: Place) -> None:
    at = RecoveryRequest(target_from(lsn=place.before))
    with place.world.cluster.connect("app", application_name="a till") as till:
        with pytest.raises(ConflictError, match="in use") as refused:
            place.restore(None, request=at)
        assert "a till" in str(refused.value)
        report = place.restore(None, request=at, options=DISCONNECT)
        with pytest.raises(Exception, match="terminat"):
            till.execute("SELECT 1")
    assert report.kept is not None
    place.drop("app")
    place.psql(f"ALTER DATABASE {report.kept} RENAME TO app", "postgres")


@on_18
def test_who_comes_in_meanwhile_keeps_the_new_one_aside(place: Place) -> None:
    names = place.databases()
    with ExitStack() as late:

        def come_in(progress: Progress) -> None:
            if progress.phase == "analyzing":
                late.enter_context(place.world.cluster.connect("app"))

        with pytest.raises(ConflictError, match="could not take its place") as refused:
            place.restore(place.logical, progress=come_in)
    (aside,) = set(place.databases()) - set(names)
    assert aside.startswith("app_restored_") and aside in str(refused.value)
    assert place.psql("SELECT count(*) FROM orders", aside) == "3000"
    place.drop(aside)


@on_18
def test_clients_that_come_back_again_and_again(place: Place) -> None:
    """They meet the old database or the new one at every moment, and hold nothing up."""
    done, met = threading.Event(), set[str]()

    def client() -> None:
        while not done.is_set():
            try:
                with place.world.cluster.connect("app") as connection:
                    while not done.is_set():
                        row = connection.execute("SELECT current_setting('test.generation')").fetchone()
                        assert row is not None
                        met.add(row[0])
            except psycopg.OperationalError:
                continue

    place.psql("ALTER DATABASE app SET test.generation = 'this'", "postgres")
    clients = [threading.Thread(target=client) for _ in range(4)]
    for each in clients:
        each.start()
    try:
        report = place.restore(place.logical, options=DISCONNECT)
        assert report.kept is not None
    finally:
        done.set()
        for each in clients:
            each.join()
    assert met == {"this"}
    place.drop("app")
    place.psql(f"ALTER DATABASE {report.kept} RENAME TO app", "postgres")
    place.psql("ALTER DATABASE app RESET test.generation", "postgres")


@on_18
def test_two_at_a_time(place: Place) -> None:
    config, postgres = place.world.config, place.world.cluster.config()
    with building(postgres, "app", Job()), pytest.raises(ConflictError, match="another run"):
        restore_database(postgres, config, DatabaseRequest("app", "app", place.logical), Job())


@on_18
def test_refusals_touch_nothing(place: Place) -> None:
    names = place.databases()
    with pytest.raises(PreconditionError, match="no such database") as refused:
        place.restore(place.physical, "x", database="nothing")
    assert "app" in str(refused.value)
    with pytest.raises(PreconditionError, match="belongs to the server"):
        place.restore(place.physical, "postgres", database="app")
    with pytest.raises(PreconditionError, match="not a name"):
        place.restore(place.physical, "x" * 64, database="app")
    assert place.databases() == names


STEPS = [
    "locked",
    "created",
    "marked",
    "filling",
    "filled",
    "indexed",
    "compared",
    "analyzed",
    "renamed",
    "finishing",
]


def _restore(postgres: PostgresConfig, config: BackupConfig, request: DatabaseRequest) -> None:
    restore_database(postgres, config, request, Job())


@on_18
@pytest.mark.parametrize("method", ["physical", "logical"])
def test_killed_at_every_step(place: Place, method: str) -> None:
    """The old one stays what it was, and the next run removes what is left."""
    backup_id = place.physical if method == "physical" else place.logical
    end = RecoveryRequest(BACKUP_END if method == "physical" else None)
    request = DatabaseRequest("app", "app", backup_id, end)
    postgres, config = place.world.cluster.config(), place.world.config
    names = place.databases()
    for step in STEPS:
        if method == "logical" and step in ("filling", "filled", "compared"):
            continue
        assert run_armed(f"database.{step}=kill", _restore, postgres, config, request) == -9, step
        assert place.psql("SELECT count(*) FROM customers") == "0", step
        left = set(place.databases()) - set(names)
        assert len(left) == (step != "locked"), (step, left)
        assert all(name.startswith("pgproof_new_") for name in left), left
    # Somebody else's database of such a name is not ours to drop.
    place.psql("CREATE DATABASE pgproof_new_12345678", "postgres")
    if method == "logical":
        assert run_armed("database.finished=kill", _restore, postgres, config, request) == -9
        (kept,) = set(place.databases()) - set(names) - {"pgproof_new_12345678"}
        assert place.psql("SELECT count(*) FROM orders") == "3000"
        place.drop("app")
        place.psql(f"ALTER DATABASE {kept} RENAME TO app", "postgres")
        dropping = replace(request, drop_old=True)
        assert run_armed("database.dropping=kill", _restore, postgres, config, dropping) == -9
        (kept,) = set(place.databases()) - set(names) - {"pgproof_new_12345678"}
        place.psql(f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{kept}'", "postgres")
    report = place.restore(backup_id, "fresh", request=end)
    assert report.target == "fresh"
    place.drop("pgproof_new_12345678", "fresh")
    if method == "logical":
        # It began to be dropped: only a run for the same database knows it.
        report = place.restore(backup_id, drop_old=True)
        place.psql("DROP TABLE orders CASCADE; DELETE FROM customers")
    assert place.databases() == names


@on_18
def test_a_failure_leaves_nothing(place: Place) -> None:
    names = place.databases()
    postgres, config = place.world.cluster.config(), place.world.config
    request = DatabaseRequest("app", "app", place.logical)
    assert run_armed("database.indexed=raise", _restore, postgres, config, request) == 1
    assert place.databases() == names


@on_18
def test_only_what_is_missing_is_added(place: Place) -> None:
    place.psql(
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; GRANT SELECT ON customers TO reader"
    )
    place.psql("INSERT INTO customers VALUES (1, 'of today')")
    rights = "SELECT relacl FROM pg_class WHERE relname = 'customers'"
    before = place.psql(rights)
    end = RecoveryRequest(BACKUP_END)
    with pytest.raises(PreconditionError, match="does not fit") as refused:
        place.restore(place.physical, clean=False, request=end)
    assert "orders_customer_fkey" in str(refused.value)
    assert place.psql("SELECT to_regclass('orders')") == ""
    place.psql("INSERT INTO customers SELECT g, ' and tomorrow' FROM generate_series(2, 500) g")
    report = place.restore(place.physical, clean=False, request=end)
    assert "table public.customers" in report.conflicts and "table public.orders" not in report.conflicts
    assert report.added and report.kept is None
    assert place.psql("SELECT count(*) FROM orders") == "3000"
    assert place.psql("SELECT name FROM customers WHERE id < 3 ORDER BY id") == "of today\n and tomorrow"
    assert place.psql(rights) == before
