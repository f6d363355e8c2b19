"""Backups of busy servers: what was committed before the stop position is in what is restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgproof.model.lsn import Lsn
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import RecoveryTarget, TargetKind
from pgproof.model.report import BackupInfo
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import FrontDoors, pg_amcheck, pg_checksums, pg_verifybackup
from tests.support import machine
from tests.support.churn import Churn
from tests.support.ledger import Ledger
from tests.support.pgbench import Pgbench, initialize
from tests.support.postgres import Cluster, ClusterFactory

StartLedger = Callable[..., Ledger]

_AS_BACKED_UP = RecoveryRequest(RecoveryTarget(TargetKind.BACKUP_END))
_RATE = 20_000  # kilobytes a second, so that some seconds of load fall into the backup


def _backup_under_load(doors: FrontDoors, ledger: Ledger) -> BackupInfo:
    with Pgbench(doors.cluster), Churn(seed=doors.cluster.major).start(doors.cluster) as churn:
        churn.wait_for(28)
        ledger.wait_for(100)
        before = churn.done.total()
        info = doors.backup(max_rate=_RATE)
        assert churn.done.total() - before >= 10, "hardly any DDL ran during the backup"
        ledger.wait_for(50)  # a restore that goes too far would hold these
    ledger.stop()
    during = [c for c in ledger.commits() if info.start_lsn <= c.before and c.after <= info.stop_lsn]
    assert len(during) >= 50, "hardly any commit fell into the backup"
    return info


@contextmanager
def _running(data_dir: Path, major: int) -> Iterator[Cluster]:
    with Cluster.adopt(data_dir, major) as cluster:
        machine.wait_until(
            lambda: cluster.psql("SELECT pg_is_in_recovery()") == "f", "the restored server to be promoted"
        )
        yield cluster


@pytest.mark.parametrize(
    ("major", "store", "encryption"),
    [(15, "s3", True), (17, "local", True), (18, "local", False)],
)
def test_a_busy_cluster_comes_back_recovered(
    major: int,
    store: str,
    encryption: bool,
    cluster_factory: ClusterFactory,
    ledger: StartLedger,
    front_doors: OpenDoors,
    work_dir: Path,
) -> None:
    source = cluster_factory(major)
    initialize(source, scale=3)
    doors = front_doors(source, store, encryption=encryption, postgres=source.tcp_config())
    running = ledger(source, clients=2)

    info = _backup_under_load(doors, running)
    assert info.status == "ok", info.findings
    source.stop("immediate")

    target = work_dir / "restored"
    report = doors.restore(info.backup_id, target)
    assert report.recovered and report.end_lsn is not None and report.end_lsn >= info.stop_lsn
    assert not (target / "recovery.signal").exists() and not (target / "backup_label").exists()
    pg_checksums(source, target)
    with _running(target, major) as restored:
        with restored.connect() as connection:
            running.check(connection, info.stop_lsn)
            running.check(connection, report.end_lsn, exact=True)
        _check_pgbench(restored)
        pg_amcheck(restored)


@pytest.mark.parametrize(
    ("major", "store", "encryption"), [(15, "local", False), (17, "s3", False), (18, "local", True)]
)
def test_a_busy_cluster_comes_back_by_the_servers_own_recovery(
    major: int,
    store: str,
    encryption: bool,
    cluster_factory: ClusterFactory,
    ledger: StartLedger,
    front_doors: OpenDoors,
    work_dir: Path,
) -> None:
    source = cluster_factory(major)
    initialize(source, scale=3)
    doors = front_doors(source, store, encryption=encryption)
    running = ledger(source, clients=2)

    info = _backup_under_load(doors, running)
    source.stop("immediate")

    target = work_dir / "restored"
    # Its server could not run us here; and the load may have filled another segment while the backup ended.
    report = doors.restore(info.backup_id, target, recover=False, request=_AS_BACKED_UP)
    assert not report.recovered and report.end_lsn is None
    pg_verifybackup(source, target, doors.server_manifest(info.backup_id))
    with _running(target, major) as restored:
        end = _end_of_recovery(restored)
        assert end >= info.stop_lsn
        with restored.connect() as connection:
            running.check(connection, end, exact=True)
        _check_pgbench(restored)
        pg_amcheck(restored)


def _check_pgbench(cluster: Cluster) -> None:
    """pgbench's own invariant: what it noted in its history is what it added to each table."""
    sums = cluster.psql(
        "SELECT (SELECT count(*) > 0 FROM pgbench_history), "
        "(SELECT sum(delta) FROM pgbench_history) = ALL (ARRAY["
        "(SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), "
        "(SELECT sum(bbalance) FROM pgbench_branches)])",
        "bench",
    )
    assert sums == "t|t"


def _end_of_recovery(cluster: Cluster) -> Lsn:
    """Where the restored server left its first timeline."""
    (history,) = (cluster.data_dir / "pg_wal").glob("00000002.history")
    return Lsn.parse(history.read_text().split()[1])
