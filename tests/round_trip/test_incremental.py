"""Chains of incremental and differential backups of real, busy servers: each restores what was there.

The storage of such chains, without a server, is tested in tests/repository/test_incremental.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgproof.actions.opening import open_repository
from pgproof.model.config import BackupType, ChangeDetection, VerifyLevel
from pgproof.model.lsn import Lsn
from pgproof.model.report import BackupInfo
from pgproof.repository.frame_slots import FRAME_SIZE
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import FrontDoors, pg_amcheck
from tests.round_trip.trap_workloads import WORKLOADS, after_restore
from tests.support import machine
from tests.support.churn import Churn
from tests.support.faults import flip_bit, replace
from tests.support.ledger import Ledger
from tests.support.postgres import Cluster, ClusterFactory
from tests.support.removal import remove_backup

StartLedger = Callable[..., Ledger]

FULL, DIFFERENTIAL, INCREMENTAL = BackupType.FULL, BackupType.DIFFERENTIAL, BackupType.INCREMENTAL


@contextmanager
def restored(doors: FrontDoors, info: BackupInfo, target: Path) -> Iterator[tuple[Cluster, Lsn]]:
    """A server on the restored backup, and where its recovery ended."""
    report = doors.restore(info.backup_id, target, cluster=info.cluster)
    assert report.recovered and report.end_lsn is not None and report.end_lsn >= info.stop_lsn
    with Cluster.adopt(target, doors.cluster.major) as cluster:
        machine.wait_until(
            lambda: cluster.psql("SELECT pg_is_in_recovery()") == "f", "the restored server to be promoted"
        )
        yield cluster, report.end_lsn


@pytest.mark.parametrize(
    ("major", "store", "encryption"), [(15, "s3", False), (17, "local", True), (18, "s3", True)]
)
def test_a_chain_of_a_busy_cluster(
    major: int,
    store: str,
    encryption: bool,
    cluster_factory: ClusterFactory,
    ledger: StartLedger,
    front_doors: OpenDoors,
    work_dir: Path,
) -> None:
    """Ledger and DDL run all the time; backups that others build on are removed before those are restored."""
    source = cluster_factory(major)
    doors = front_doors(source, store, encryption=encryption, postgres=source.tcp_config())
    running = ledger(source, clients=2)
    chain = []
    with Churn(seed=major).start(source) as churn:
        for kind in (FULL, INCREMENTAL, INCREMENTAL, DIFFERENTIAL, INCREMENTAL):
            churn.wait_for(14)
            running.wait_for(60)
            chain.append(doors.backup(kind))
    running.stop()
    full, first, second, differential, last = chain

    assert all(info.status == "ok" for info in chain), [info.findings for info in chain]
    assert [info.parent_id for info in chain] == [
        None,
        full.backup_id,
        first.backup_id,
        full.backup_id,
        differential.backup_id,
    ]
    assert [info.change_detection for info in chain] == ["none", *["compare"] * 4]
    repository = open_repository(doors.config)
    stored = [sum(pack.size for pack in repository.pack_objects(info.backup_id).values()) for info in chain]
    assert stored[1] < stored[0], stored
    removed = remove_backup(repository, full.backup_id) + remove_backup(repository, differential.backup_id)
    assert removed, "nothing was removed with the backups"
    assert doors.backups() == [first.backup_id, second.backup_id, last.backup_id]
    for info in (first, last):
        assert doors.verify(info.backup_id, VerifyLevel.FRAMES).ok
        with restored(doors, info, work_dir / info.backup_id) as (cluster, end):
            with cluster.connect() as connection:
                running.check(connection, end, exact=True)
            pg_amcheck(cluster)


@pytest.mark.parametrize("major", [17, 18])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_what_the_servers_own_incrementals_get_wrong(
    workload: str, major: int, cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    """In both ways, and really in both: a fall-back would prove nothing."""
    source = cluster_factory(major, settings={"autovacuum": False, "summarize_wal": True})
    doors = {
        way: front_doors(source, change_detection=way, backup_dir=str(work_dir / way))
        for way in ChangeDetection
    }
    last: dict[ChangeDetection, BackupInfo] = {}
    for number, step in enumerate(WORKLOADS[workload]):
        step(source)
        for way in ChangeDetection:
            last[way] = doors[way].backup(INCREMENTAL if number else FULL)
    found = {}
    for way, info in last.items():
        assert info.change_detection == way, info.findings
        with restored(doors[way], info, work_dir / f"restored-{way}") as (cluster, _end):
            pg_amcheck(cluster)
            found[way] = dict(after_restore(cluster))
    expected = dict(after_restore(source))
    assert found == dict.fromkeys(ChangeDetection, expected)


def test_without_anything_to_build_on_it_is_a_full_one_and_says_so(
    cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    doors = front_doors(cluster_factory())
    first = doors.backup(INCREMENTAL)
    assert (first.type, first.parent_id, first.change_detection) == (FULL, None, "none")
    assert "-full-" in first.backup_id
    (finding,) = [f for f in first.findings if f.kind == "no-base"]
    assert "as a full backup" in finding.message and first.status == "ok"
    second = doors.backup(DIFFERENTIAL)
    assert (second.type, second.parent_id) == (DIFFERENTIAL, first.backup_id)


def test_what_a_verification_named_heals_with_the_next_backup(
    cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory()
    source.psql("CREATE TABLE facts AS SELECT g, md5(g::text) FROM generate_series(1, 50000) g")
    doors = front_doors(source)
    full = doors.backup()
    packs = sorted((work_dir / "repository").glob(f"clusters/main/packs/{full.backup_id}/*"))
    content = packs[0].read_bytes()
    replace(packs[0], flip_bit(content, len(content) // 2))
    report = doors.verify(full.backup_id, VerifyLevel.FRAMES)
    assert not report.ok and report.damaged_packs

    healed = doors.backup(INCREMENTAL)

    (finding,) = [f for f in healed.findings if f.kind == "healed"]
    assert "packs/" in finding.message and healed.stored_bytes > FRAME_SIZE
    assert doors.verify(healed.backup_id, VerifyLevel.START).proven
    # The next one builds on whole packs: nothing is stored again.
    later = doors.backup(INCREMENTAL)
    assert later.stored_bytes < healed.stored_bytes / 4
    assert not [f for f in later.findings if f.kind == "healed"]
    assert doors.verify(later.backup_id, VerifyLevel.FRAMES).ok
