"""Clones of databases: whole and masked before anybody can connect, or not there at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgproof.actions.clone_database import clone_database
from pgproof.backup import BackupManager
from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.database_restore import BuildOptions, CloneRequest, DatabaseReport
from pgproof.model.job import Job
from pgproof.recovery import RecoveryManager
from tests.support.faults import run_armed
from tests.support.postgres import Cluster, ClusterFactory

_EVERYTHING = Path(__file__).parents[1] / "support" / "everything.sql"
_SHOP = """
CREATE ROLE clerk LOGIN; CREATE DATABASE shop OWNER clerk; ALTER DATABASE shop SET work_mem = '9MB';
\\connect shop
CREATE TABLE people (id int PRIMARY KEY, name text);
INSERT INTO people SELECT g, 'secret ' || g FROM generate_series(1, 2000) g;
CREATE TABLE more AS SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 5000) g;
ALTER TABLE people OWNER TO clerk; ANALYZE;
"""
_NAMES = (
    "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1') ORDER BY 1"
)


@pytest.fixture(scope="module", params=[15, 17, 18])
def shop(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(request.param) as cluster:
        cluster.psql(_SHOP)
        yield cluster


on_18 = pytest.mark.parametrize("shop", [18], indirect=True)


def _clone(cluster: Cluster, target: str, source: str = "shop", **options: Any) -> DatabaseReport:
    postgres = cluster.config()
    manager = RecoveryManager(postgres, BackupManager(postgres, BackupConfig(backup_dir="/nowhere")))
    return asyncio.run(manager.clone_database(source, target, **options))


def test_masked_before_anybody_can_connect(shop: Cluster, work_dir: Path) -> None:
    mask = work_dir / "mask.sql"
    mask.write_text(
        "\\set word 'nobody'\nUPDATE people SET name = :'word'; DELETE FROM more WHERE g > 4000;\n"
    )
    with _looking(shop, "masked") as seen:
        report = _clone(shop, "masked", mask=mask)
        for _ in range(1000):
            if seen:
                break
            threading.Event().wait(0.01)
    assert report.masked and report.comparison is not None and report.comparison.rows == 7000
    assert set(seen) == {"nobody"}
    assert shop.psql("SELECT count(*) FROM more", "masked") == "4000"
    assert shop.psql("SELECT count(*) FROM pg_stats WHERE most_common_vals::text ~ 'secret'", "masked") == "0"
    assert shop.psql("SHOW work_mem", "masked") == "9MB"
    assert shop.psql("SELECT count(*) FROM people WHERE name ~ 'secret'", "shop") == "2000"
    shop.psql("DROP DATABASE masked WITH (FORCE)")


@on_18
def test_a_failed_masking_leaves_no_clone(shop: Cluster, work_dir: Path) -> None:
    mask = work_dir / "mask.sql"
    mask.write_text("UPDATE people SET name = 'x';\nSELECT 1 / 0;\n")
    with pytest.raises(PreconditionError, match="masking failed") as refused:
        _clone(shop, "masked", mask=mask)
    assert "division by zero" in str(refused.value)
    assert shop.psql(_NAMES) == "shop"
    with pytest.raises(PreconditionError, match="cannot be read"):
        _clone(shop, "masked", mask=work_dir / "missing.sql")


@on_18
def test_fast(shop: Cluster) -> None:
    with shop.connect("shop", application_name="a till"):
        with pytest.raises(ConflictError, match="needs it alone") as refused:
            _clone(shop, "quick", fast=True)
        assert "a till" in str(refused.value)
        report = _clone(shop, "quick", fast=True, options=BuildOptions(disconnect=True))
    assert any("files were copied" in note for note in report.notes)
    assert shop.psql("SELECT count(*) FROM more", "quick") == "5000"
    assert shop.psql("SHOW work_mem", "quick") == "9MB"
    with pytest.raises(PreconditionError, match="exists already"):
        _clone(shop, "quick")
    shop.psql("DROP DATABASE quick")


@on_18
@pytest.mark.parametrize("fast", [False, True])
def test_killed_at_every_step(shop: Cluster, work_dir: Path, fast: bool) -> None:
    mask = work_dir / "mask.sql"
    mask.write_text("UPDATE people SET name = 'nobody'")
    request = CloneRequest("shop", "copy", fast, BuildOptions(mask=mask))
    config = BackupConfig(backup_dir="/nowhere")
    steps = [
        "created",
        "marked",
        "filling",
        "filled",
        "indexed",
        "compared",
        "masking",
        "masked",
        "finishing",
    ]
    if fast:
        steps = [step for step in steps if step not in ("filling", "filled", "indexed", "compared")]
    for step in steps:
        assert run_armed(f"database.{step}=kill", _run, shop.config(), config, request) == -9, step
        names = shop.psql(_NAMES).splitlines()
        assert len(names) == 2 and names[0].startswith("pgproof_new_"), step
        with pytest.raises(
            psycopg.OperationalError, match=r"too many connections|not currently accepting|denied"
        ):
            shop.connect(names[0], user="clerk")
    assert run_armed("", _run, shop.config(), config, request) == 0
    assert shop.psql(_NAMES) == "copy\nshop"
    assert shop.psql("SELECT DISTINCT name FROM people", "copy") == "nobody"
    shop.psql("DROP DATABASE copy")


def test_to_a_later_version_with_everything(cluster_factory: ClusterFactory) -> None:
    with Cluster(15) as source:
        source.psql("CREATE DATABASE every")
        source.psql(_EVERYTHING.read_text(), "every")
        target = cluster_factory(18)
        names = target.psql(_NAMES)
        with pytest.raises(PreconditionError, match="do not exist on this server") as refused:
            _clone(source, "every", "every", to=target.config())
        assert "everything_reader" in str(refused.value)
        assert target.psql(_NAMES) == names
        target.psql('CREATE ROLE "everything owner"; CREATE ROLE everything_reader')
        report = _clone(source, "every", "every", to=target.config())
        assert report.comparison is not None and report.comparison.same and report.comparison.tables > 5
        with pytest.raises(PreconditionError, match="cannot be brought into"):
            _clone(target, "back", "every", to=source.config())


def test_subscriptions_stay_behind(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(18, settings={"wal_level": "logical"})
    cluster.psql(
        "CREATE DATABASE there; CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t"
    )
    cluster.psql("CREATE TABLE t (id int PRIMARY KEY)", "there")
    where = f"host={cluster.socket_dir} port={cluster.port} user=postgres dbname=postgres"
    cluster.psql("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    cluster.psql(
        f"CREATE SUBSCRIPTION s CONNECTION '{where}' PUBLICATION p WITH (create_slot = false, slot_name = s)",
        "there",
    )
    report = _clone(cluster, "copy", "there")
    assert any("subscriptions" in note for note in report.notes)
    count = (
        "SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid WHERE datname = 'copy'"
    )
    assert cluster.psql(count) == "0"
    cluster.psql("ALTER SUBSCRIPTION s DISABLE", "there")
    cluster.psql("ALTER SUBSCRIPTION s SET (slot_name = NONE)", "there")
    cluster.psql("DROP SUBSCRIPTION s", "there")


@on_18
def test_by_an_ordinary_role(shop: Cluster) -> None:
    shop.psql("ALTER ROLE clerk CREATEDB; ALTER TABLE more OWNER TO clerk", "shop")
    postgres = shop.config(user="clerk")
    manager = RecoveryManager(postgres, BackupManager(postgres, BackupConfig(backup_dir="/nowhere")))
    asyncio.run(manager.clone_database("shop", "mine"))
    assert shop.psql("SELECT datacl FROM pg_database WHERE datname = 'mine'") in (
        "{=Tc/clerk,clerk=CTc/clerk}",
        "{clerk=CTc/clerk,=Tc/clerk}",
    )
    shop.psql("DROP DATABASE mine")


def _run(postgres: PostgresConfig, config: BackupConfig, request: CloneRequest) -> None:
    clone_database(postgres, postgres, config, request, Job())


@contextmanager
def _looking(cluster: Cluster, target: str) -> Iterator[list[str]]:
    """What somebody sees who tries without end to connect to any database that is new, as the owner and by its name."""
    seen: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with cluster.connect() as connection:
                names = connection.execute(_NAMES.encode()).fetchall()
            for name in {target, *(row[0] for row in names)} - {"shop"}:
                try:
                    with cluster.connect(name, user="clerk") as connection:
                        seen.extend(row[0] for row in connection.execute("SELECT DISTINCT name FROM people"))
                except psycopg.Error:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
