"""A role that may only read: what it cannot dump is told or refused, never left out in silence; and which method is taken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupMethod, PostgresConfig
from pgproof.model.report import BackupInfo, Check
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import FrontDoors
from tests.support import machine
from tests.support.postgres import Cluster, ClusterFactory

LOGICAL = BackupMethod.LOGICAL
PASSWORD = r"a pass:word with \ and 'quotes'"


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with Cluster(18) as cluster:
        literal = PASSWORD.replace("'", "''")
        cluster.psql(f"CREATE ROLE reader LOGIN PASSWORD '{literal}' IN ROLE pg_read_all_data")
        cluster.psql("CREATE ROLE owner; CREATE DATABASE app; CREATE DATABASE closed; CREATE DATABASE hidden")
        cluster.psql("REVOKE CONNECT ON DATABASE closed FROM public")
        cluster.psql(
            "CREATE TABLE plain AS SELECT 1 AS a; CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 2 AS b;"
            "CREATE TABLE s.log AS SELECT 3 AS c",
            "app",
        )
        cluster.psql("CREATE TABLE rows (a int); ALTER TABLE rows ENABLE ROW LEVEL SECURITY", "hidden")
        yield cluster


@pytest.fixture(autouse=True)
def rights(server: Cluster) -> None:
    """Tests come in any order."""
    server.psql("ALTER ROLE reader NOBYPASSRLS")


def as_reader(cluster: Cluster, **changes: Any) -> PostgresConfig:
    return cluster.config(host="127.0.0.1", user="reader", password=PASSWORD, **changes)


def kinds(info: BackupInfo) -> list[str]:
    return [finding.kind for finding in info.findings]


def test_a_role_that_only_reads_dumps_what_it_may_and_tells_the_rest(
    server: Cluster, front_doors: OpenDoors
) -> None:
    doors = front_doors(server, postgres=as_reader(server), method=LOGICAL, databases=("app", "postgres"))
    info = doors.backup()
    assert info.status == "ok" and "no-role-passwords" not in kinds(info), "pg_read_all_data reads pg_authid"
    assert doors.verify("latest").proven
    # By itself everything: one database is closed, another hides rows.
    with pytest.raises(PreconditionError, match="row-level security hides rows") as hidden:
        doors.backup(databases=())
    assert "ALTER ROLE reader BYPASSRLS" in hidden.value.hint and hidden.value.context["tables"] == "rows"
    server.psql("ALTER ROLE reader BYPASSRLS")
    everything = doors.backup(databases=())
    assert everything.status == "degraded" and "separate-snapshots" in kinds(everything)
    (closed,) = [finding.message for finding in everything.findings if finding.kind == "no-connect"]
    assert "GRANT CONNECT ON DATABASE closed TO reader" in closed
    with pytest.raises(PreconditionError, match="may not connect to this database"):
        doors.backup(databases=("closed",))
    with pytest.raises(PreconditionError, match="no such database"):
        doors.backup(databases=("nowhere",))


def test_large_objects_of_others_are_refused_with_what_helps(server: Cluster, front_doors: OpenDoors) -> None:
    server.psql("CREATE DATABASE objects")
    oid = server.psql("SELECT lo_from_bytea(0, 'x')", "objects")
    doors = front_doors(server, postgres=as_reader(server), method=LOGICAL, databases=("objects",))
    with pytest.raises(PreconditionError, match="may not read all large objects") as refused:
        doors.backup()
    server.psql(refused.value.hint.rpartition("  ")[2], "objects")
    assert doors.backup().status == "ok", oid


def test_a_role_that_may_not_read_a_table_is_told_the_grant(server: Cluster, front_doors: OpenDoors) -> None:
    server.psql("CREATE ROLE nobody_s LOGIN PASSWORD 'x'")
    postgres = server.config(host="127.0.0.1", user="nobody_s", password="x")
    doors = front_doors(server, postgres=postgres, method=LOGICAL, databases=("app",))
    with pytest.raises(PreconditionError, match="may not read everything") as refused:
        doors.backup()
    assert "GRANT pg_read_all_data" in refused.value.hint
    assert doors.backups() == []


def test_some_tables_only(server: Cluster, front_doors: OpenDoors) -> None:
    doors = front_doors(server, method=LOGICAL, databases=("app",))
    whole = doors.backup()
    some = doors.backup(exclude_tables=("s.*",))
    assert some.size_bytes < whole.size_bytes
    assert doors.verify("latest").proven
    doors.backup(tables=("s.t", "plain"))
    # What it needs, the schema, was not asked for: nothing is damaged, and nothing is proven.
    report = doors.verify("latest")
    assert report.ok and not report.proven, report.checks
    with pytest.raises(PreconditionError, match="no table fits a pattern"):
        doors.backup(tables=("s.nothing*",))
    with pytest.raises(PreconditionError, match="always of the whole cluster"):
        doors.backup(method=BackupMethod.PHYSICAL)


def test_auto_is_logical_where_replication_is_refused_but_never_leaves_a_physical_chain(
    server: Cluster, front_doors: OpenDoors
) -> None:
    server.psql("ALTER ROLE reader BYPASSRLS")
    doors = front_doors(server, postgres=as_reader(server))
    info = doors.backup()
    assert info.method == "logical"
    (reason,) = [finding.message for finding in info.findings if finding.kind == "method"]
    assert "the role may not use replication" in reason
    checks = {check.name: check for check in _check(doors)}
    assert (
        checks["method logical"].ok
        and "loses what came after the last backup" in checks["method logical"].detail
    )
    assert checks["method physical"].ok is None
    server.psql("ALTER ROLE reader REPLICATION")
    try:
        assert doors.backup().method == "physical"
        assert {check.name: check for check in _check(doors)}["method physical"].ok
    finally:
        server.psql("ALTER ROLE reader NOREPLICATION")
    with pytest.raises(PreconditionError, match="the role may not use replication"):
        doors.backup()
    assert doors.backup(method=LOGICAL).method == "logical"


def _check(doors: FrontDoors) -> list[Check]:
    return asyncio.run(doors.manager().check())


def test_a_standby_is_dumped_where_a_physical_backup_wants_its_primary(
    cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    primary = cluster_factory(18)
    primary.psql("CREATE DATABASE app")
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) g", "app")
    data = machine.new_dir("standby", owned_by_service=True) / "data"
    primary.run(
        "pg_basebackup", "-D", str(data), "--checkpoint=fast", "--write-recovery-conf", dbname="postgres"
    )
    standby = cluster_factory.adopt(data, 18)
    doors = front_doors(primary, postgres=standby.config())
    with pytest.raises(PreconditionError, match="this server is a standby") as refused:
        doors.backup()
    assert "--method logical" in refused.value.hint
    info = doors.backup(method=LOGICAL)
    assert "standby" in kinds(info) and doors.verify("latest").proven


def test_nothing_secret_is_in_the_arguments_of_the_programs(server: Cluster, front_doors: OpenDoors) -> None:
    """The password goes by a file that is gone afterwards."""
    doors = front_doors(server, postgres=as_reader(server), method=LOGICAL, databases=("app",))
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(process.read_bytes())
                    seen.add((process.parent / "environ").read_bytes())
                except OSError:
                    continue

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            for _turn in range(20):  # it lives for a moment only
                doors.backup()
                if any(b"pg_dump" in each for each in list(seen)):
                    break
        finally:
            over.set()
        looking.result()
    assert any(b"pg_dump" in each for each in seen)
    assert not any(PASSWORD.encode() in each for each in seen)
    scratch = Path(str(doors.config.scratch_dir))
    assert not [path for path in scratch.iterdir() if path.name.startswith("pgproof-")]
