"""Random histories through the retention planner: no floor is ever violated, and every rule keeps what it promises.

Histories have gaps, clocks that jump, degraded and unreadable backups, pins, locks and both methods. What must hold is computed
here in another way than in the planner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

from campaigns.campaign import Campaign
from pgproof.model.config import BackupType
from pgproof.model.manifest import backup_id_for
from pgproof.model.pin import Pin
from pgproof.model.retention import CLOCK_SLACK, Candidate, RetentionPlan, plan_retention
from pgproof.model.retention_policy import RetentionPolicy, policy_of

_HISTORIES = 100_000
_BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


def run(campaign: Campaign) -> None:
    for number, random in campaign.rounds(_HISTORIES):
        now, candidates = history(random)
        policy = some_policy(random)
        plan = plan_retention(candidates, policy, now)
        try:
            check(candidates, policy, now, plan)
            # Once done, the same plan has nothing more to do.
            kept = [each for each in candidates if plan.of(each.backup_id).keep]
            assert plan_retention(kept, policy, now).kept == plan.kept
            # Nothing grows old while no backup is taken: a clock that runs ahead removes nothing more.
            if number % 5 == 0 and all(each.youngest <= now for each in candidates):
                plain = [replace(each, pin=None, locked_until=None) for each in candidates]
                assert (
                    plan_retention(plain, policy, now + 3650 * _DAY).kept
                    == plan_retention(plain, policy, now).kept
                )
        except AssertionError as error:
            raise AssertionError(f"round {number}: {error} ({policy}, now {now})") from error
        campaign.count("histories")
        campaign.count("backups judged", len(candidates))
        campaign.count("backups removed", len(plan.removed))
    campaign.require("histories", _HISTORIES)
    campaign.require("backups removed", _HISTORIES)


def history(random: Random) -> tuple[datetime, list[Candidate]]:
    """Backups of a few days or some years, and when they are judged."""
    at = _BEGUN + timedelta(hours=random.randrange(24 * 400))
    wrong = timedelta(0)
    found: list[Candidate] = []
    ids: list[str] = []
    step = random.choice([1, 1, 6, 24, 24, 24 * 7])
    methods = random.choice([["physical"], ["physical"], ["logical"], ["physical", "logical"]])
    for number in range(random.choice([0, 1, 2, 5, 10, 30, 60])):
        at += timedelta(hours=step * random.choice([1, 1, 1, 1, 2, 10]), minutes=random.randrange(10))
        if random.random() < 0.02:
            wrong = random.choice([timedelta(0), 2 * _DAY, -2 * _DAY, -30 * 365 * _DAY, timedelta(hours=2)])
        kind = random.choices(list(BackupType), [3, 1, 6])[0]
        clock = at + wrong
        ids.append(backup_id_for(clock, kind, f"{number:06x}", ids))
        readable = random.random() > 0.02
        good = readable and random.random() > 0.1
        found.append(
            Candidate(
                ids[-1],
                kind,
                random.choice(methods) if readable else "unknown",
                clock,
                at + timedelta(seconds=random.randrange(3600)),
                good=good,
                proven=good and random.random() < 0.2,
                clean=good or random.random() < 0.5,
                readable=readable,
                pin=_pin(random, at) if random.random() < 0.03 else None,
                locked_until=at + 14 * _DAY if random.random() < 0.05 else None,
            )
        )
    now = at + timedelta(hours=random.choice([0, 1, 5, 24, 24 * 40])) + timedelta(hours=1)
    random.shuffle(found)
    return now, found


def _pin(random: Random, at: datetime) -> Pin:
    return random.choice([Pin(None), Pin(at + random.randrange(400) * _DAY, "audit"), Pin(at, broken=True)])


def some_policy(random: Random) -> RetentionPolicy:
    def maybe(*values: int) -> int | None:
        return random.choice([None, *values])

    periods = [random.choice([0, 1, 3, 30]) for _ in range(4)]
    match random.randrange(4):
        case 0:
            return policy_of()
        case 1:
            return policy_of(days=random.choice([0, 1, 7, 30]), at_least=maybe(1, 3), pitr_days=maybe(0, 3))
        case 2:
            return policy_of(last=random.choice([1, 2, 10]), days=maybe(1, 7), pitr_days=maybe(0, 3))
        case _:
            hours, daily, weekly, monthly = periods if any(periods) else [24, 0, 0, 0]
            return policy_of(hours=hours, daily=daily, weekly=weekly, monthly=monthly, pitr_days=maybe(0, 30))


def check(
    candidates: Sequence[Candidate], policy: RetentionPolicy, now: datetime, plan: RetentionPlan
) -> None:
    """Raises AssertionError for a plan that breaks a promise."""
    assert sorted(each.backup_id for each in candidates) == [each.backup_id for each in plan.verdicts]
    assert all(all(verdict.reasons) and verdict.reasons for verdict in plan.verdicts)
    gone = set(plan.removed)
    for each in candidates:
        if each.backup_id in gone:
            assert each.readable, "what cannot be read was removed"
            assert each.pin is None or not each.pin.holds(now), "a pin was overridden"
            assert each.locked_until is None or each.locked_until <= now, "a lock was overridden"
            assert each.finished_at <= now + CLOCK_SLACK, "removed although it lies in the future"
    for method in {each.method for each in candidates if each.readable}:
        group = sorted(
            (c for c in candidates if c.method == method and c.readable), key=lambda c: c.backup_id
        )
        _check_group(group, policy, now, gone)


def _told_at(each: Candidate) -> datetime:
    """A backup cannot end before it began: then the clock of who took it was wrong."""
    return each.stored_at if each.finished_at < each.begun_by_id else each.finished_at


def _check_group(group: list[Candidate], policy: RetentionPolicy, now: datetime, gone: set[str]) -> None:
    def last(some: list[Candidate], what: str, count: int = 1) -> None:
        for each in some[-count:]:
            assert each.backup_id not in gone, f"{what} was removed"

    good = [each for each in group if each.good]
    last(group, "the newest")
    last([each for each in group if each.type is BackupType.FULL], "the newest full one")
    last(good, "the newest good one")
    last([each for each in group if each.proven], "the newest proven one")
    last([each for each in group if each.clean], "the newest clean one")
    last(good or group, "one of the least number", policy.at_least)
    if policy.last:
        last(group, "one of the last", policy.last)
    past = [each for each in group if each.youngest <= now + CLOCK_SLACK]
    newest = min(now, max((each.youngest for each in past), default=now))
    for each in past:
        age = newest - each.youngest
        if policy.days is not None and age < policy.days * _DAY:
            assert each.backup_id not in gone, "a young one was removed"
        if policy.hours and age < timedelta(hours=policy.hours):
            assert each.backup_id not in gone, "one of the last hours was removed"
    for count, of, length in (
        (policy.daily, lambda t: t.date(), 1),
        (policy.weekly, lambda t: t.isocalendar()[:2], 7),
        (policy.monthly, lambda t: (t.year, t.month), 28),
    ):
        buckets: dict[object, list[Candidate]] = {}
        for each in past:
            buckets.setdefault(of(_told_at(each)), []).append(each)
        for bucket in buckets.values():
            # Well inside the window: its edges are the planner's own business.
            ages = [newest - _told_at(each) for each in bucket]
            if not any(timedelta(0) <= age < count * length * _DAY for age in ages):
                continue
            left = [each for each in bucket if each.backup_id not in gone]
            assert left, "nothing stands for a period"
            assert any(each.good for each in left) or not any(each.good for each in bucket), (
                "a good backup was there, and something else stands for its period"
            )
    if group[0].method == "physical" and good:
        window = newest - policy.pitr_days * _DAY
        left = [each for each in good if each.backup_id not in gone]
        if any(each.youngest <= window for each in good):
            assert any(each.youngest <= window for each in left), "nothing to recover from into the window"
