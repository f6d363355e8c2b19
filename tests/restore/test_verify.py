"""Verification of clusters that are hard to ask, and of damage that was there before the backup."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgproof.actions.init_repository import init_repository
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.model.config import BackupConfig, BackupType, UserCheck, VerifyLevel
from pgproof.model.job import Job
from pgproof.model.report import Check, VerificationReport
from tests.support import machine
from tests.support.postgres import Cluster, find_bin

_PAGE = 8192
_BOSS = "The Boss"
_ODD = ["""it's "Größe" `名前`""", "host=elsewhere dbname=other"]


def _config(place: Path, major: int) -> BackupConfig:
    config = BackupConfig(
        backup_dir=str(place / "repo"), encryption=False, bin_dir=str(find_bin(major)), scratch_dir=str(place)
    )
    init_repository(config)
    return config


def _result(report: VerificationReport, name: str) -> Check:
    (found,) = [check for check in report.checks if check.name == name]
    return found


@pytest.fixture
def odd(request: pytest.FixtureRequest) -> Iterator[BackupConfig]:
    """A backup of a cluster with all that makes a server hard to ask."""
    place = machine.new_dir("odd")
    config = _config(place, request.param)
    with Cluster(request.param) as cluster:
        cluster.psql(f'CREATE ROLE "{_BOSS}" SUPERUSER LOGIN; CREATE ROLE helper SUPERUSER LOGIN')
        with cluster.connect(user="helper") as connection:
            connection.execute("ALTER ROLE postgres RENAME TO was_postgres")
            connection.execute("ALTER ROLE was_postgres NOLOGIN")
            for name in [*_ODD, "closed", "bare", "read only"]:
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
            connection.execute("ALTER DATABASE closed ALLOW_CONNECTIONS false")
            connection.execute('ALTER DATABASE "read only" SET default_transaction_read_only = on')
            connection.execute('ALTER DATABASE "read only" SET statement_timeout = 1')
            connection.execute("ALTER DATABASE bare SET search_path = ''")
            connection.execute("ALTER ROLE ALL SET search_path = nowhere")
            connection.execute("CREATE TABLE orders AS SELECT generate_series(1, 100) AS id")
        with cluster.connect("bare", user="helper") as connection:
            connection.execute("DROP SCHEMA public")
            connection.execute("CREATE SCHEMA own")
            connection.execute("CREATE EXTENSION pg_visibility SCHEMA own")
            connection.execute("CREATE TABLE own.rows AS SELECT generate_series(1, 100) AS id")
        with (cluster.data_dir / "postgresql.conf").open("a") as conf:
            conf.write("shared_preload_libraries = 'not_there'\n")  # in effect after the next start
        take_backup(cluster.config(user="helper"), config, BackupType.FULL, Job())
    yield config
    shutil.rmtree(place)


@pytest.mark.parametrize("odd", [18], indirect=True)
def test_an_odd_cluster_is_asked_the_user_s_questions(odd: BackupConfig) -> None:
    checks = (
        UserCheck("orders", "postgres", "SELECT count(*) = 100 FROM public.orders"),
        UserCheck("too few", "postgres", "SELECT count(*) > 100 FROM public.orders"),
        UserCheck("nothing", "postgres", "SELECT true WHERE false"),
        UserCheck("null", "postgres", "SELECT NULL::boolean"),
        UserCheck("truth in words", "postgres", "SELECT 'yes'"),
        UserCheck("wrong", "postgres", "SELECT no_such_function()"),
        UserCheck("no rows possible", "postgres", "CREATE TEMP TABLE t ()"),
        UserCheck("no such database", "nowhere", "SELECT true"),
        UserCheck("odd database", _ODD[1], "SELECT current_database() = 'host=elsewhere dbname=other'"),
    )
    report = verify_backup(replace(odd, checks=checks), "latest", VerifyLevel.FULL, Job())
    found = {check.name: check for check in report.checks}
    assert {name for name, check in found.items() if check.ok is False} == {
        *("check too few", "check nothing", "check null", "check truth in words", "check wrong"),
        *("check no rows possible", "check no such database"),
    }
    assert not report.ok and not report.proven
    assert found["check too few"].detail == "1 of 1 rows are not true"
    assert found["check nothing"].detail == "the query returned no rows"
    assert "no_such_function" in found["check wrong"].detail
    assert {f"dump of {name}" for name in [*_ODD, "bare", "read only"]} <= set(found)
    assert "dump of closed" not in found


@pytest.mark.parametrize("odd", [15], indirect=True)
def test_an_odd_cluster_is_proven(odd: BackupConfig) -> None:
    report = verify_backup(odd, "latest", VerifyLevel.FULL, Job())
    assert report.ok and report.proven, [check for check in report.checks if check.ok is False]
    assert report.sandbox.startswith("own user, mount")
    assert all(check.ok for check in report.checks), report.checks


def test_damage_of_the_source_is_found(work_dir: Path) -> None:
    """Without data checksums the backup copies it faithfully; nobody would notice before it is needed."""
    config = _config(work_dir, 18)
    settings = {"autovacuum": False}
    with Cluster(18, initdb_args=("--no-data-checksums",), settings=settings) as cluster:
        for name in ("heap", "index", "visible"):
            cluster.psql(f"CREATE DATABASE {name}")
        fill = "CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 2000);"
        files = {
            "heap": cluster.psql(f"{fill} SELECT pg_relation_filepath('t')", "heap"),
            "index": cluster.psql(
                f"{fill} CREATE INDEX i ON t (id); SELECT pg_relation_filepath('i')", "index"
            ),
            "visible": cluster.psql(
                f"{fill} CREATE EXTENSION pg_visibility; VACUUM t; SELECT pg_relation_filepath('t') || '_vm'",
                "visible",
            ),
        }
        cluster.psql("CHECKPOINT")
        path = {name: cluster.data_dir / file for name, file in files.items()}
        all_visible = path["visible"].read_bytes()
        # The deleted row clears its page's bits; then the map as it was comes back.
        cluster.psql("DELETE FROM t WHERE id = 1; CHECKPOINT", "visible")
        cluster.stop()
        path["visible"].write_bytes(all_visible)
        _overwrite(path["heap"], 24, b"\x05")  # the first line pointer, now to an odd offset
        # The last key of the second page, which is a leaf: special space is 16 bytes, a tuple 16 bytes.
        _overwrite(path["index"], _PAGE + _PAGE - 16 - 8, b"\xff\xff\xff\x7f")
        cluster.start()
        take_backup(cluster.config(), config, BackupType.FULL, Job())
    report = verify_backup(config, "latest", VerifyLevel.FULL, Job())
    assert not report.ok and not report.proven
    assert _result(report, "started and recovered").ok
    amcheck = _result(report, "pg_amcheck")
    assert amcheck.ok is False
    assert "heap" in amcheck.detail and "line pointer" in amcheck.detail
    assert 'index "i"' in amcheck.detail
    visibility = _result(report, "pg_visibility")
    assert visibility.ok is False
    assert "visible: t" in visibility.detail
    assert _result(report, "pg_checksums").ok is None


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
