"""Recovery to targets of all kinds, over three timelines of a real server, compared with what was committed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pgproof.actions.init_repository import init_repository
from pgproof.actions.restore_cluster import plan_cluster_restore
from pgproof.actions.take_backup import take_backup
from pgproof.actions.wal_single import push_one
from pgproof.backup import BackupManager
from pgproof.errors import DataError, PreconditionError
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from pgproof.model.lsn import WalSegment
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import BACKUP_END, target_from
from pgproof.model.report import Progress
from pgproof.recovery import RecoveryManager
from tests.support.postgres import ClusterFactory
from tests.support.recovery_world import Mark, RecoveryWorld


@dataclass
class Past:
    """A world with two backups on timeline 1, marks between them, and timelines 2 and 3."""

    world: RecoveryWorld
    early: list[Mark]
    late: list[Mark]
    second: list[Mark]
    third: list[Mark]


def make_past(world: RecoveryWorld) -> Past:
    primary = world.cluster
    with world.busy(primary, 1):
        world.backup()
        early = [world.mark(primary, 1) for _ in range(2)]
        primary.psql("SELECT pg_create_restore_point('once'), pg_create_restore_point('twice')")
        early.append(world.mark(primary, 1))
        world.switch(primary)
        world.backup()
        late = [world.mark(primary, 1) for _ in range(2)]
        primary.psql("SELECT pg_create_restore_point('twice')")
        world.switch(primary)
        late.append(world.mark(primary, 1))
    world.promote()
    with world.busy(primary, 2):
        second = [world.mark(primary, 2) for _ in range(2)]
        world.switch(primary)
    world.push()
    return Past(world, early, late, second, [])


@pytest.fixture(scope="module", params=[15, 17, 18])
def past(request: pytest.FixtureRequest) -> Iterator[Past]:
    with RecoveryWorld(request.param) as world:
        yield make_past(world)


def test_time_and_transaction_lead_to_the_commits_before_them(past: Past) -> None:
    world, counter = past.world, itertools.count()
    first, second, _third = past.early
    directory = world.root / f"r{next(counter)}"
    postgres = world.cluster.config()
    manager = RecoveryManager(postgres, BackupManager(postgres, world.config))
    local = first.time.astimezone().replace(tzinfo=None)
    report = asyncio.run(manager.point_in_time_recovery(local, data_dir=directory, timeline=1))
    assert report.target == f"time {first.time:%Y-%m-%d %H:%M:%S.%f} UTC", "the answer echoes UTC"
    assert report.backup_id == world.backups[0].backup_id
    assert world.judge(directory, report, 1) == [first.number]
    later = past.second[0]
    directory, report = world.restore(
        f"r{next(counter)}", RecoveryRequest(target_from(xid=later.xid, inclusive=False))
    )
    assert report.backup_id == world.backups[1].backup_id, "the newest backup before the target"
    assert later.number not in world.judge(directory, report, 2)
    directory, report = world.restore(f"r{next(counter)}", RecoveryRequest(target_from(xid=later.xid)))
    assert world.judge(directory, report, 2)[-1] == later.number
    assert report.last_commit is not None
    assert report.last_commit["xid"] == later.xid
    assert second.number < later.number


def test_plans_name_the_commits_on_both_sides(past: Past) -> None:
    world = past.world
    first, second = past.early[:2]
    plan = world.plan(RecoveryRequest(target_from(time=first.time), timeline=1))
    assert plan.stop is not None
    assert plan.stop.before is not None
    assert plan.stop.after is not None
    assert plan.stop.before.time <= first.time < plan.stop.after.time
    assert plan.stop.before.lsn < plan.stop.after.lsn == plan.stop.at
    text = "\n".join(plan.lines(first.time + timedelta(hours=3)))
    assert f"transaction {plan.stop.before.xid} at {plan.stop.before.lsn}" in text
    assert "UTC" in text
    assert "3 h ago" in text or "2 h 59 min ago" in text
    # Between the records at both ends of a transaction everything is the same position.
    by_lsn = world.plan(RecoveryRequest(target_from(lsn=plan.stop.at, inclusive=False), timeline=1))
    assert by_lsn.stop is not None
    assert by_lsn.stop.before == plan.stop.before
    included = world.plan(RecoveryRequest(target_from(lsn=plan.stop.at), timeline=1))
    assert included.stop is not None
    assert included.stop.before == plan.stop.after
    assert second.time > first.time


def test_a_time_behind_the_last_commit_means_everything(past: Past) -> None:
    plan = past.world.plan(RecoveryRequest(target_from(time=past.second[-1].time + timedelta(days=1))))
    assert plan.stop is not None
    assert plan.stop.at is None
    assert any("later than the last commit" in note for note in plan.notes)


def test_the_newest_backup_before_the_target_is_taken_and_the_timeline_is_a_number(past: Past) -> None:
    world = past.world
    old, new = (backup.backup_id for backup in world.backups[:2])
    for mark, backup_id in [(past.early[1], old), (past.late[0], new), (past.second[0], new)]:
        assert world.plan(RecoveryRequest(target_from(xid=mark.xid))).backup_id == backup_id
    assert world.plan(RecoveryRequest(target_from(name="once"))).backup_id == old
    assert world.plan(RecoveryRequest(), "latest").timeline == 2
    assert world.plan(RecoveryRequest(timeline=1), "latest").timeline == 1
    assert world.plan(RecoveryRequest(BACKUP_END), old).stop_lsn == world.backups[0].stop_lsn


def test_what_cannot_be_reached_is_refused_with_what_can(past: Past) -> None:
    world = past.world
    new = world.backups[1].backup_id
    refused = [
        (RecoveryRequest(target_from(time="2020-01-01T00:00:00Z")), None, "before the end of the oldest"),
        (RecoveryRequest(target_from(time=past.early[0].time)), new, "before the end of the oldest"),
        (RecoveryRequest(target_from(lsn="0/1000028")), None, "before the end of the oldest"),
        (RecoveryRequest(target_from(lsn="FF/0")), None, "behind the end of the WAL"),
        (RecoveryRequest(target_from(xid=past.second[0].xid), timeline=1), None, "ends nowhere"),
        (RecoveryRequest(target_from(xid=past.early[0].xid)), new, "ends nowhere"),
        (RecoveryRequest(target_from(name="never")), None, "no such restore point"),
        (RecoveryRequest(target_from(lsn=past.early[0].after)), new, "before the end of the oldest"),
        (RecoveryRequest(timeline=9), "latest", "does not know this timeline"),
    ]
    for request, backup_id, words in refused:
        with pytest.raises(PreconditionError, match=words) as caught:
            world.restore("refused", request, backup_id)
        if request.timeline != 9:
            reach = world.backups[1 if backup_id else 0]
            assert str(reach.stop_lsn) in caught.value.hint, caught.value.hint
            assert "UTC" in caught.value.hint
        assert not (world.root / "refused").exists()


def test_a_quiet_server_does_not_make_later_commits_part_of_an_earlier_time(
    cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    """No commit in the WAL is later than the target, or the first one comes long after the backup."""
    cluster = cluster_factory(18)
    config = BackupConfig(backup_dir=str(work_dir / "repository"), passphrase="a passphrase")
    init_repository(config)
    before = datetime.fromisoformat(cluster.psql("SELECT clock_timestamp()"))
    cluster.psql("CREATE TABLE later ()")
    take_backup(cluster.config(), config, BackupType.FULL, Job())
    for _ in range(2):
        with pytest.raises(PreconditionError, match="before the end of the oldest backup"):
            plan_cluster_restore(
                config,
                None,
                work_dir / "planned",
                tablespaces={},
                recover=True,
                owner=None,
                request=RecoveryRequest(target_from(time=before)),
            )
        cluster.psql("CREATE TABLE IF NOT EXISTS much_later (); INSERT INTO much_later DEFAULT VALUES")
        name = cluster.psql("SELECT pg_walfile_name(pg_switch_wal())")
        push_one(config, cluster.data_dir / "pg_wal" / name)


def test_several_restore_points_of_one_name_are_all_shown(past: Past) -> None:
    with pytest.raises(PreconditionError, match="2 restore points have this name") as caught:
        past.world.restore("refused", RecoveryRequest(target_from(name="twice")))
    lsns = [line.split()[1].rstrip(",") for line in caught.value.hint.splitlines() if "--to-lsn" in line]
    plans = [past.world.plan(RecoveryRequest(target_from(lsn=lsn))) for lsn in lsns]
    assert [plan.backup_id for plan in plans] == [backup.backup_id for backup in past.world.backups[:2]]


def test_a_hole_in_the_wal_is_named_and_passed_by_no_target(past: Past) -> None:
    """The hole lies behind the first backup and before the second one."""
    world = past.world
    hole = WalSegment.containing(1, past.early[2].before, 16 << 20)
    with world.without(hole):
        with pytest.raises(PreconditionError, match=f"hole in the WAL that begins at {hole.start}") as caught:
            world.plan(RecoveryRequest(target_from(time=past.early[2].time)))
        assert f"missing from {hole.start} to {hole.end}" in caught.value.hint
        plan = world.plan(RecoveryRequest(), world.backups[0].backup_id)
        assert plan.wal_end == hole.start or plan.stop_lsn <= hole.start
        assert any(f"missing from {hole.start}" in note for note in plan.notes)
        assert world.plan(RecoveryRequest(target_from(xid=past.late[0].xid))).backup_id == (
            world.backups[1].backup_id
        )


def test_wal_that_vanishes_in_the_middle_of_a_restore_fails_it(past: Past) -> None:
    world = past.world
    last = WalSegment.containing(2, past.second[-1].before, 16 << 20)

    with pytest.raises(DataError), world.vanishing(last) as vanish:

        def watch(progress: Progress) -> None:
            if progress.phase == "syncing":
                vanish()

        world.restore("broken", RecoveryRequest(), "latest", job=Job(watch))
    with pytest.raises(RuntimeError, match="did not start"), world.adopt(world.root / "broken"):
        pass


def test_a_backup_that_lacks_objects_is_passed_over_for_the_one_before(past: Past) -> None:
    world = past.world
    old, new = (backup.backup_id for backup in world.backups[:2])
    packs = world.root / "repository/clusters/main/packs" / new
    aside = world.root / "aside"
    packs.rename(aside)
    try:
        plan = world.plan(RecoveryRequest(target_from(xid=past.late[0].xid)))
        assert plan.backup_id == old
        assert any(new in note and "passed over" in note for note in plan.notes)
        by_time = world.plan(RecoveryRequest(target_from(time=past.late[1].time), timeline=1))
        assert by_time.backup_id == old
        with pytest.raises(DataError, match=new):  # one that is named is not exchanged for another
            world.plan(RecoveryRequest(target_from(xid=past.late[0].xid)), new)
    finally:
        aside.rename(packs)
