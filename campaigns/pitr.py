"""Recovery to a hundred targets of all kinds over three timelines, each compared with the ledger and with marks.

Timeline 2 goes on where the first one ended, by a promotion; timeline 3 branches from the middle of the first, from a
cluster that was itself restored to a point. Clients commit all the time. Marks are commits of known transaction, time and
position, each with a restore point behind it. What is on another timeline is refused, with nothing written.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from random import Random

from campaigns.campaign import Campaign
from pgproof.errors import PreconditionError
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import BACKUP_END, RecoveryTarget, target_from
from tests.support.postgres import Cluster
from tests.support.recovery_world import Lineage, Mark, RecoveryWorld

TARGETS = 100
KINDS = ("time", "lsn", "xid", "name", "latest", "backup end")
_MAJORS = (18, 17, 15)
_MARKS = 6


@dataclass(frozen=True)
class Expected:
    """A target, and the marks that must be there; None where only the ledger and positions tell."""

    kind: str
    target: RecoveryTarget | None
    marks: list[int] | None


def run(campaign: Campaign) -> None:
    majors = _MAJORS if campaign.times(TARGETS) > 2 * len(_MAJORS) else _MAJORS[:1]
    rounds = list(campaign.rounds(TARGETS, least=3))
    for number, major in enumerate(majors):
        with RecoveryWorld(major) as world:
            make_past(world, campaign.random(f"past of {major}"))
            for each, random in rounds[number :: len(majors)]:
                one_target(campaign, world, random, each)
        campaign.count("servers")
    campaign.require("targets", TARGETS, least=3)
    for kind in KINDS:
        campaign.require(f"to a {kind}", TARGETS // 20, least=0)
    for timeline in (1, 2, 3):
        campaign.require(f"on timeline {timeline}", TARGETS // 10, least=0)
    campaign.require("refused", TARGETS // 10, least=0)


def make_past(world: RecoveryWorld, random: Random) -> None:
    primary = world.cluster
    with world.busy(primary, 1):
        world.backup()
        mark(world, primary, 1, random)
        world.backup()
        mark(world, primary, 1, random)
    world.promote()
    with world.busy(primary, 2):
        mark(world, primary, 2, random)
        world.backup()
        mark(world, primary, 2, random)
    world.switch(primary)
    world.push()
    branch_point = world.lineages[1].marks[random.randrange(_MARKS, 2 * _MARKS - 1)]
    request = RecoveryRequest(target_from(xid=branch_point.xid), timeline=1)
    directory, report = world.restore("branch", request)
    assert report.end_lsn is not None
    first = world.lineages[1]
    world.lineages[3] = Lineage(
        3,
        [each for each in first.marks if each.number <= branch_point.number],
        [commit for commit in first.commits if commit.after <= report.end_lsn],
    )
    with world.adopt(directory, archive=True) as branch:
        with world.busy(branch, 3):
            mark(world, branch, 3, random)
        world.switch(branch)
        shutil.copy(directory / "pg_wal" / "00000003.history", world.archive)
    shutil.rmtree(directory)
    world.push()


def mark(world: RecoveryWorld, cluster: Cluster, timeline: int, random: Random) -> None:
    for _ in range(_MARKS):
        number = world.mark(cluster, timeline).number
        cluster.psql(f"SELECT pg_create_restore_point('mark {number}')")
        if random.random() < 0.3:
            world.switch(cluster)


def one_target(campaign: Campaign, world: RecoveryWorld, random: Random, number: int) -> None:
    timeline = random.choice((1, 2, 3))
    lineage = world.lineages[timeline]
    first = world.backups[0].stop_lsn
    marks = [each for each in lineage.marks if each.before > first]
    expected = choose(random, lineage, marks)
    backup = random.choice(world.backups[:2]).backup_id if expected.target in (None, BACKUP_END) else None
    request = RecoveryRequest(expected.target, None if expected.target == BACKUP_END else timeline)
    if expected.target == BACKUP_END:
        timeline = 1
    if timeline == 3 and expected.target is None:
        backup = world.backups[0].backup_id
    directory, report = world.restore(f"target{number}", request, backup)
    found = world.judge(directory, report, timeline)
    what = f"{expected} on timeline {timeline}: {found}"
    assert expected.marks is None or found == expected.marks, what
    campaign.count("targets")
    campaign.count(f"to a {expected.kind}")
    campaign.count(f"on timeline {timeline}")
    refuse_other(campaign, world, random)


def choose(random: Random, lineage: Lineage, marks: list[Mark]) -> Expected:
    at = random.choice(marks)
    inclusive = random.random() < 0.5
    upto = [each.number for each in lineage.marks if each.number <= at.number]
    match random.choice(KINDS):
        case "time":
            return Expected("time", target_from(time=at.time, inclusive=inclusive), upto)
        case "lsn":
            return Expected("lsn", target_from(lsn=at.after, inclusive=inclusive), None)
        case "xid":
            wanted = upto if inclusive else upto[:-1]
            return Expected("xid", target_from(xid=at.xid, inclusive=inclusive), wanted)
        case "name":
            return Expected("name", target_from(name=f"mark {at.number}"), upto)
        case "latest":
            return Expected("latest", None, [each.number for each in lineage.marks])
        case _:
            return Expected("backup end", BACKUP_END, None)


def refuse_other(campaign: Campaign, world: RecoveryWorld, random: Random) -> None:
    """A mark of timeline 2 alone is nowhere on the others."""
    only = [each for each in world.lineages[2].marks if each not in world.lineages[1].marks]
    request = RecoveryRequest(target_from(name=f"mark {random.choice(only).number}"), random.choice((1, 3)))
    try:
        world.plan(request)
    except PreconditionError as error:
        assert "no such restore point" in error.message, error
        assert not (world.root / "planned").exists()
        campaign.count("refused")
        return
    raise AssertionError(f"reached what lies on another timeline: {request}")
