"""Recovery to targets of all kinds, over three timelines of a real server, compared with what was committed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import target_from
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
    directory, report = world.restore(
        f"r{next(counter)}", RecoveryRequest(target_from(time=first.time), timeline=1)
    )
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
