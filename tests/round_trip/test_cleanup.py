"""Cleanups of real repositories: what stays is whole, starts, and reaches every moment of its window."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from pgproof.model.cleanup_report import CleanupReport
from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import target_from
from pgproof.model.report import Progress
from pgproof.recovery import RecoveryManager
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import FrontDoors
from tests.round_trip.test_mirror import MIRROR_FIELDS, alone
from tests.support.machine import wait_until
from tests.support.postgres import Cluster, ClusterFactory
from tests.support.s3 import S3Server
from tests.support.streaming import Streamer, wait_for_flush, written

FULL, INCREMENTAL = BackupType.FULL, BackupType.INCREMENTAL
NEWEST = {"keep_last": 1, "keep_at_least": 1, "pitr_days": 0}


def clean(doors: FrontDoors, *, compact: bool = False, **rules: Any) -> CleanupReport:
    manager = doors.manager(**{**NEWEST, **rules})
    infos = asyncio.run(manager.list_backups())
    # Stores tell whole seconds: one of a backup's own second lies before its end. And ids are never of the same second, so
    # that of quick backups runs ahead of the clock.
    newest = max(max(info.finished_at, datetime.fromisoformat(info.backup_id[:16])) for info in infos)
    wait_until(lambda: datetime.now(UTC).replace(microsecond=0) > newest, "the backup's second to end")
    return asyncio.run(manager.cleanup(approved=True, compact=compact))


def rows(place: Path, major: int = 18) -> int:
    with Cluster.adopt(place, major) as restored:
        return int(restored.psql("SELECT count(*) FROM t"))


def insert(cluster: Cluster) -> datetime:
    """One more row, and a moment soon after it."""
    cluster.psql("INSERT INTO t SELECT max(n) + 1, repeat(md5(random()::text), 40) FROM t")
    return datetime.fromisoformat(cluster.psql("SELECT clock_timestamp() FROM pg_sleep(0.01)"))


@pytest.mark.parametrize("store", ["local", "s3"])
def test_what_stays_restores_and_reaches_its_window(
    store: str, cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    cluster = cluster_factory(18)
    cluster.psql("CREATE TABLE t AS SELECT n, repeat(md5(n::text), 40) FROM generate_series(1, 1000) n")
    doors = front_doors(cluster, store)
    with Streamer(cluster.config(), doors.config) as streamer:
        wait_for_flush(cluster, Lsn(1))  # it has begun: what is written before that is not stored
        ids, moments = [], []
        for kind in (FULL, INCREMENTAL, FULL, INCREMENTAL, INCREMENTAL):
            ids.append(doors.backup(kind).backup_id)
            moments.append(insert(cluster))
            insert(cluster)
            cluster.psql("SELECT pg_switch_wal()")
        wait_for_flush(cluster, written(cluster))
        streamer.stop()
    # A day's window: nothing is so old, so that it begins with the oldest backup.
    assert clean(doors, pitr_days=1).removed == (ids[1], ids[3])
    assert doors.backups() == [ids[0], ids[2], ids[4]]
    target = target_from(time=moments[1])
    recovery = RecoveryManager(doors.postgres, doors.manager())
    report = asyncio.run(
        recovery.restore_cluster("latest", work_dir / "moment", request=RecoveryRequest(target))
    )
    assert report.backup_id == ids[0]
    assert rows(work_dir / "moment") == 1003

    assert clean(doors).removed == (ids[0],)
    assert doors.backups() == [ids[2], ids[4]]
    for number, backup_id in ((2, ids[2]), (4, ids[4])):
        assert doors.verify(backup_id, VerifyLevel.FRAMES).ok
        place = work_dir / backup_id
        doors.restore(backup_id, place, request=RecoveryRequest(target_from(backup_end=True)))
        assert rows(place) == 1000 + 2 * number
    asyncio.run(recovery.restore_cluster("latest", work_dir / "after"))
    assert rows(work_dir / "after") == 1010
    assert clean(doors).removed == ()


def test_a_backup_that_runs_meanwhile_loses_nothing(
    pg18: Cluster, front_doors: OpenDoors, work_dir: Path
) -> None:
    doors = front_doors(pg18)
    old = [doors.backup(kind).backup_id for kind in (FULL, INCREMENTAL, FULL)]
    reports: list[CleanupReport] = []

    def meanwhile(progress: Progress) -> None:
        if progress.phase == "copying" and progress.done and not reports:
            reports.append(clean(doors))

    new = doors.backup(INCREMENTAL, progress=meanwhile).backup_id
    assert reports[0].removed == tuple(old[:2])
    assert len(reports[0].plan.running) == 1
    assert doors.backups() == [old[2], new]
    assert doors.verify(new, VerifyLevel.START).proven


def test_a_mirror_is_cleaned_likewise(
    pg18: Cluster, s3: S3Server, front_doors: OpenDoors, work_dir: Path
) -> None:
    there = s3.backup_config(s3_bucket=s3.make_bucket(f"mirror-{secrets.token_hex(6)}"))
    doors = front_doors(pg18, **{name: getattr(there, name) for name in MIRROR_FIELDS})
    first, second, third, last = (doors.backup(kind).backup_id for kind in (FULL, INCREMENTAL, FULL, FULL))
    asyncio.run(doors.manager().keep_backup(second, why="as it was before the change"))
    report = clean(doors)
    assert report.removed == (first, third)
    assert [copy.removed for copy in report.copies] == [(first, third)] * 2
    for changes in ({}, alone(doors.config)):
        assert doors.backups(**changes) == [second, last]
        assert all(doors.verify(each, VerifyLevel.FRAMES, **changes).ok for each in (second, last))
    # The pin was made in the directory, and the next copying brings it along.
    asyncio.run(doors.manager().copy_to_mirror())
    infos = asyncio.run(doors.manager(**alone(doors.config)).list_backups())
    assert [info.pinned_until is not None for info in infos] == [True, False]


def test_packs_are_rewritten_in_a_directory_and_its_mirror(
    cluster_factory: ClusterFactory, s3: S3Server, front_doors: OpenDoors, work_dir: Path
) -> None:
    """A pinned backup shares little with the full one that it was built on: most of that one goes, two days later."""
    cluster = cluster_factory(18)
    cluster.psql("CREATE TABLE t AS SELECT n, repeat(md5(n::text), 40) FROM generate_series(1, 1000) n")
    random = "md5(random()::text) || md5(random()::text) || md5(random()::text)"
    cluster.psql(f"CREATE TABLE dropped AS SELECT {random} FROM generate_series(1, 400000)")
    there = s3.backup_config(s3_bucket=s3.make_bucket(f"mirror-{secrets.token_hex(6)}"))
    doors = front_doors(cluster, **{name: getattr(there, name) for name in MIRROR_FIELDS})
    first = doors.backup(FULL).backup_id
    cluster.psql("DROP TABLE dropped")
    cluster.psql("CHECKPOINT")
    pinned = doors.backup(INCREMENTAL).backup_id
    asyncio.run(doors.manager().keep_backup(pinned, why="the end of the year"))
    last = doors.backup(FULL).backup_id
    report = clean(doors, compact=True)
    done = report.compaction
    assert report.removed == (first,) and done is not None and not done.failed
    assert done.packs >= 1 and done.stored_bytes < done.size_bytes / 2
    for changes in ({}, alone(doors.config)):
        assert all(doors.verify(each, VerifyLevel.FRAMES, **changes).ok for each in (pinned, last))
    root = Path(doors.config.backup_dir or "")
    packs = {path.name for path in (root / f"clusters/{doors.config.cluster}/packs/{first}").iterdir()}
    then = time.time() - 3 * 86400
    for path in root.rglob("*"):
        os.utime(path, (then, then))
    report = clean(doors)
    # The mirror's are young yet.
    assert [copy.freed_bytes for copy in report.copies] == [done.size_bytes, 0]
    left = {path.name for path in (root / f"clusters/{doors.config.cluster}/packs/{first}").iterdir()}
    assert len(packs - left) == done.packs
    assert doors.verify(pinned, VerifyLevel.START).proven
    doors.restore(pinned, work_dir / "r", request=RecoveryRequest(target_from(backup_end=True)))
    assert rows(work_dir / "r") == 1000


def test_a_bucket_with_object_lock(pg18: Cluster, s3: S3Server, front_doors: OpenDoors) -> None:
    bucket = f"locked-{secrets.token_hex(6)}"
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    client.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}},
        },
    )
    client.close()
    there = s3.backup_config(s3_bucket=bucket)
    doors = front_doors(pg18, backup_dir=None, **{name: getattr(there, name) for name in MIRROR_FIELDS})
    for _number in range(2):
        doors.backup()
    prepared = asyncio.run(doors.manager(**NEWEST).plan_cleanup())
    assert prepared.plan.retention.removed == ()
    assert "Object Lock holds it until" in prepared.plan.retention.verdicts[0].reasons[0]
