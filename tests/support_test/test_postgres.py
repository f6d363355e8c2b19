"""The clusters that other tests rely on behave as promised."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.support import machine
from tests.support.postgres import STREAM_USER, Cluster, ClusterFactory, find_bin

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("major", [15, 17, 18])
def test_each_major_starts_with_the_sample(major: int, request: pytest.FixtureRequest) -> None:
    cluster: Cluster = request.getfixturevalue(f"pg{major}")

    assert cluster.psql("SHOW server_version_num").startswith(str(major))
    assert cluster.psql("SELECT count(*) FROM accounts", "app") == "1000"
    assert cluster.psql("SHOW data_checksums") == "on"
    assert cluster.run("psql", "--version").split()[2].startswith(str(major))


def test_servers_do_not_run_as_root(pg18: Cluster) -> None:
    user = machine.service_user()
    expected = os.geteuid() if user is None else user.pw_uid

    assert Path(f"/proc/{pg18.pid}").stat().st_uid == expected


def test_the_replication_role_streams_over_tcp_and_only_with_its_password(pg18: Cluster) -> None:
    parameters = pg18.tcp_config().parameters()
    with psycopg.connect(make_conninfo(**parameters, replication="true"), autocommit=True) as connection:
        answer = connection.execute("IDENTIFY_SYSTEM").fetchone()
    assert answer is not None
    assert answer[0].decode() == pg18.psql("SELECT system_identifier FROM pg_control_system()")

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(make_conninfo(**parameters | {"password": "wrong"}))


def test_two_clusters_are_two_systems(cluster_factory: ClusterFactory) -> None:
    query = "SELECT system_identifier FROM pg_control_system()"

    assert cluster_factory().psql(query) != cluster_factory().psql(query)


@pytest.mark.parametrize("major", [15, 17, 18])
def test_options_reach_initdb_and_the_configuration(major: int, cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(
        major,
        initdb_args=["--wal-segsize=64", "--no-data-checksums"],
        settings={"archive_mode": True, "archive_command": "cp '%p' /nowhere\\%f", "work_mem": "5MB"},
        hba=[f"host all {STREAM_USER} 127.0.0.1/32 reject"],
    )

    assert cluster.psql("SHOW wal_segment_size; SHOW data_checksums; SHOW work_mem") == "64MB\noff\n5MB"
    assert cluster.psql("SHOW archive_command") == "cp '%p' /nowhere\\%f"
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        psycopg.connect(make_conninfo(**cluster.tcp_config().parameters()))


def test_configuration_may_lie_outside_the_data_directory(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(outside_config=True)

    assert not (cluster.data_dir / "postgresql.conf").exists()
    assert cluster.psql("SHOW config_file; SHOW hba_file; SHOW data_directory").splitlines() == [
        str(cluster.config_dir / "postgresql.conf"),
        str(cluster.config_dir / "pg_hba.conf"),
        str(cluster.data_dir),
    ]
    cluster.restart()
    assert cluster.psql("SELECT 1") == "1"


@pytest.mark.parametrize("major", [15, 17, 18])
def test_a_killed_server_recovers(major: int, cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(major)
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 100)")

    cluster.kill9()
    assert not cluster.running
    with pytest.raises(psycopg.OperationalError):
        cluster.connect()
    cluster.start()

    assert cluster.psql("SELECT count(*) FROM t") == "100"
    assert "was not properly shut down" in cluster.log_tail(200)
    cluster.restart("immediate")
    cluster.restart("smart")
    assert cluster.psql("SELECT count(*) FROM t") == "100"


@pytest.mark.parametrize("outside_config", [False, True])
def test_a_copied_data_directory_can_be_adopted(
    outside_config: bool, cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    source = cluster_factory(outside_config=outside_config)
    source.psql("CREATE TABLE t AS SELECT 42 AS answer")
    copy = work_dir / "copy"
    machine.give_to_service(work_dir)
    source.run("pg_basebackup", "--pgdata", str(copy), "--checkpoint=fast")

    adopted = cluster_factory.adopt(copy, settings={"cluster_name": "adopted"})

    assert adopted.port != source.port
    assert adopted.psql("SELECT answer FROM t; SHOW cluster_name") == "42\nadopted"
    adopted.remove()
    assert (copy / "PG_VERSION").exists()


def test_a_server_that_does_not_start_says_why() -> None:
    broken = Cluster(settings={"shared_buffers": "no size"})
    with pytest.raises(RuntimeError, match='invalid value for parameter "shared_buffers"'), broken:
        pass
    assert not broken.root.exists()


def test_an_sql_error_is_an_error(pg18: Cluster) -> None:
    with pytest.raises(RuntimeError, match="division by zero"):
        pg18.psql("SELECT 1/0")


def test_a_version_that_is_not_there_is_named() -> None:
    with pytest.raises(LookupError, match="PostgreSQL 9 is not installed"):
        find_bin(9)


def test_nothing_outlives_a_killed_test_run() -> None:
    script = """
import sys
from tests.support import machine
from tests.support.postgres import Cluster, ClusterFactory

with Cluster() as cluster:
    print(cluster.pid, machine.workspace(), flush=True)
    sys.stdin.read()
"""
    run = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with run:
        assert run.stdout is not None
        pid, workspace = run.stdout.readline().split()
        assert machine.is_alive(int(pid))
        run.send_signal(signal.SIGKILL)

    machine.wait_until(lambda: not machine.is_alive(int(pid)), "the server to end with its test run")

    # The directory is left behind, until another run makes its own.
    subprocess.run(
        [sys.executable, "-c", "from tests.support import machine; machine.workspace()"], check=True, cwd=ROOT
    )
    assert not Path(workspace).exists()
    assert machine.workspace().exists()
