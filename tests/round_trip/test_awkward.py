"""A cluster with everything that trips a backup tool, and clusters that were made differently."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pgproof.model.config import VerifyLevel
from pgproof.model.report import BackupInfo, VerificationReport
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import FrontDoors, pg_amcheck, pg_verifybackup
from tests.support import machine
from tests.support.awkward import Awkward, make_awkward
from tests.support.churn import Churn
from tests.support.fingerprint import as_restored, database_fingerprint
from tests.support.ledger import Ledger
from tests.support.pgbench import Pgbench, initialize
from tests.support.postgres import Cluster, ClusterFactory

StartLedger = Callable[..., Ledger]


def _fingerprint(cluster: Cluster, awkward: Awkward) -> dict[str, object]:
    names = awkward.databases
    return {"databases": {name: database_fingerprint(cluster.connect, name) for name in names}}


def _backup_under_load(doors: FrontDoors, ledger: Ledger) -> BackupInfo:
    initialize(doors.cluster)
    with Pgbench(doors.cluster, clients=2), Churn().start(doors.cluster) as churn:
        churn.wait_for(14)
        ledger.wait_for(20)
        info = doors.backup()
    ledger.stop()
    assert info.status == "ok", info.findings
    return info


def _failed(report: VerificationReport) -> list[object]:
    return [*report.damage, *(check for check in report.checks if check.ok is not True)]


def test_the_awkward_cluster_with_its_tablespaces_moved(
    cluster_factory: ClusterFactory, ledger: StartLedger, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory(15, initdb_args=["--wal-segsize=64", "--no-data-checksums"], outside_config=True)
    awkward = make_awkward(source, work_dir)
    before = _fingerprint(source, awkward)
    doors = front_doors(source)
    running = ledger(source, clients=1)
    info = _backup_under_load(doors, running)

    report = doors.verify(info.backup_id, VerifyLevel.FULL)
    assert [check.name for check in report.checks if check.ok is not True] == ["pg_checksums"]
    assert report.ok and report.proven

    target = work_dir / "restored"
    moved = {str(old): str(work_dir / f"neu – {old.name}") for old in awkward.tablespaces.values()}
    restored_as = doors.restore(info.backup_id, target, tablespaces=moved)
    assert restored_as.tablespaces == moved and restored_as.end_lsn is not None
    # The configuration is not in effect until somebody has looked at it: here by taking one file of it.
    for name in ("postgresql.conf", "pg_hba.conf"):
        assert (target / "config-from-backup" / name).read_bytes() == (source.config_dir / name).read_bytes()
    (target / "config-from-backup" / "pg_hba.conf").replace(target / "pg_hba.conf")

    with Cluster.adopt(target, 15) as restored:
        assert restored.psql("SHOW wal_segment_size") == "64MB"
        assert restored.psql("SHOW data_checksums") == "off"
        assert _fingerprint(restored, awkward) == as_restored(before)
        with restored.connect() as connection:
            places = dict(
                connection.execute(
                    "SELECT spcname, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname !~ '^pg_'"
                ).fetchall()
            )
            assert places == {name: moved[str(old)] for name, old in awkward.tablespaces.items()}
            running.check(connection, restored_as.end_lsn, exact=True)
        pg_amcheck(restored)


def test_the_awkward_cluster_where_it_was_with_a_table_of_two_segments(
    cluster_factory: ClusterFactory, ledger: StartLedger, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory(18, initdb_args=["--wal-segsize=64"])
    awkward = make_awkward(source, work_dir, big=True)
    before = _fingerprint(source, awkward)
    doors = front_doors(source, "s3", encryption=False)
    running = ledger(source, clients=1)
    info = _backup_under_load(doors, running)

    report = doors.verify(info.backup_id, VerifyLevel.FULL)
    assert not _failed(report)
    assert report.ok and report.proven

    # The machine is lost: the tablespaces go back to where they were, into new directories.
    source.stop("immediate")
    for path in awkward.tablespaces.values():
        path.rename(work_dir / f"lost {path.name}")
    target = work_dir / "restored"
    doors.restore(info.backup_id, target, recover=False)
    pg_verifybackup(source, target, doors.server_manifest(info.backup_id))
    with Cluster.adopt(target) as restored:
        machine.wait_until(
            lambda: restored.psql("SELECT pg_is_in_recovery()") == "f", "the restored server to be promoted"
        )
        assert _fingerprint(restored, awkward) == as_restored(before)
        with restored.connect() as connection:
            running.check(connection, info.stop_lsn)


@pytest.mark.parametrize("major", [15, 18])
def test_a_cluster_with_group_access_stays_one(
    major: int, cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory(major, initdb_args=["--allow-group-access"])
    doors = front_doors(source)
    target = work_dir / "restored"
    doors.restore(doors.backup().backup_id, target)

    modes = {stat.filemode(path.lstat().st_mode): str(path) for path in (target, *target.rglob("*"))}
    assert modes.keys() == {"drwxr-x---", "-rw-r-----"}, modes
    with Cluster.adopt(target, major) as restored:
        assert restored.psql("SHOW data_directory_mode") == "0750"
