"""Which backups stay: small tables, and a sample of the random histories of campaigns/retention.py."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from campaigns import retention
from campaigns.campaign import Campaign
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupType
from pgproof.model.manifest import backup_id_for
from pgproof.model.pin import Pin
from pgproof.model.retention import Candidate, plan_retention
from pgproof.model.retention_policy import policy_of

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
FULL, INCREMENTAL = BackupType.FULL, BackupType.INCREMENTAL


def taken(days: float, kind: BackupType = FULL, **facts: object) -> Candidate:
    """A backup that ended so many days before NOW."""
    at = NOW - timedelta(days=days)
    finished = facts.pop("finished_at", at)
    return Candidate(backup_id_for(at, kind, "0a1b2c"), kind, "physical", finished, at, **facts)  # type: ignore[arg-type]


def kept(backups: list[Candidate], now: datetime = NOW, **policy: int | None) -> list[int]:
    """Which of the backups stay, as their places in the list."""
    plan = plan_retention(backups, policy_of(**{"pitr_days": 0, "at_least": 1, **policy}), now)
    return [number for number, each in enumerate(backups) if plan.of(each.backup_id).keep]


def test_a_sample_of_random_histories(tmp_path: Path) -> None:
    campaign = Campaign("retention", secrets.randbelow(1_000_000), 0.003, tmp_path)
    print(f"seed {campaign.seed}")
    retention.run(campaign)


def test_by_age() -> None:
    assert kept([taken(each) for each in (40, 31, 30, 29, 0)], days=30) == [2, 3, 4]


def test_by_count() -> None:
    assert kept([taken(each) for each in (4, 3, 2, 1, 0)], last=2) == [3, 4]


def test_nothing_configured_is_by_period() -> None:
    hourly = [taken(hours / 24, INCREMENTAL if hours % 24 else FULL) for hours in range(24 * 800, -1, -1)]
    plan = plan_retention(hourly, policy_of(), NOW)
    ages = sorted(NOW - each.finished_at for each in hourly if plan.of(each.backup_id).keep)
    assert [age.total_seconds() / 3600 for age in ages[:25]] == list(range(25))
    days = {age.days for age in ages}
    assert set(range(1, 29)) <= days
    assert len([day for day in days if 60 < day < 360]) in range(42, 55)  # weeks, and the months among them
    assert len([day for day in days if day > 380]) in range(12, 16)  # months
    assert len(ages) < 130


def test_while_no_backup_is_taken_nothing_grows_old() -> None:
    backups = [taken(each) for each in (8, 7, 6, 5)]
    for now in (NOW, NOW + timedelta(days=365)):
        assert kept(backups, now, days=2) == [1, 2, 3]


def test_the_youngest_clock_counts() -> None:
    """A worker whose clock was thirty years back has taken this one an hour ago."""
    backups = [taken(5), taken(4), taken(1 / 24, finished_at=NOW - timedelta(days=11_000)), taken(0)]
    assert kept(backups, days=2) == [2, 3]


def test_what_lies_in_the_future_stays() -> None:
    backups = [taken(3), taken(2), taken(1), taken(-2), taken(-1)]
    assert kept(backups, days=1) == [1, 2, 3, 4]
    assert kept(backups, last=1) == [2, 3, 4]  # recovery up to now begins with the newest one of the past


def test_floors() -> None:
    backups = [
        taken(60, proven=True),
        taken(50),
        taken(40, good=False),
        taken(30, INCREMENTAL, good=False, clean=False),
        taken(20, INCREMENTAL, good=False, clean=False),
    ]
    plan = plan_retention(backups, policy_of(last=1, pitr_days=0, at_least=1), NOW)
    reasons = [plan.of(each.backup_id).reasons[0].partition(":")[0] for each in backups]
    assert [plan.of(each.backup_id).keep for each in backups] == [True, True, True, False, True]
    assert reasons == [
        "newest proven one",
        "newest good one",
        "newest full",
        "1 newer ones, and the last 1 are kept",
        "newest",
    ]


def test_pins_locks_and_what_cannot_be_read() -> None:
    def at(days: float) -> datetime:
        return NOW + timedelta(days=days)

    backups = [
        taken(90, pin=Pin(None, "the audit")),
        taken(80, pin=Pin(at(1))),
        taken(70, pin=Pin(at(-1))),
        taken(60, pin=Pin(None, broken=True)),
        taken(50, locked_until=at(1)),
        taken(40, locked_until=at(-1)),
        taken(30, readable=False, good=False),
        taken(0),
    ]
    assert kept(backups, last=1) == [0, 1, 3, 4, 6, 7]


def test_a_period_is_stood_for_by_a_good_one() -> None:
    backups = [taken(3.2), taken(3.1), taken(3.05, good=False), taken(2, good=False), taken(0)]
    assert kept(backups, daily=10) == [1, 3, 4]


def test_methods_do_not_count_for_each_other() -> None:
    logical = [
        Candidate(backup_id_for(NOW - timedelta(days=n), FULL, "ffffff"), FULL, "logical", NOW, NOW)
        for n in (2, 1)
    ]
    assert kept([taken(9), taken(8), *logical], last=1) == [1, 3]


def test_the_window_of_recovery_has_its_base() -> None:
    backups = [taken(12), taken(9), taken(8, good=False), taken(6), taken(0)]
    assert kept(backups, last=1, pitr_days=7) == [1, 4]


def test_every_removal_says_what_is_kept_instead() -> None:
    backups = [taken(300), taken(3.2), taken(3.1), taken(0)]
    plan = plan_retention(backups, policy_of(daily=30, pitr_days=0, at_least=1), NOW)
    assert [plan.of(each.backup_id).reasons for each in backups[:2]] == [
        ("older than 30 days",),
        (f"{backups[2].backup_id} stands for its day",),
    ]


@pytest.mark.parametrize("wrong", [{"last": 0}, {"days": -1}, {"daily": 0}, {"at_least": 0}])
def test_what_is_no_rule(wrong: dict[str, int]) -> None:
    with pytest.raises(PreconditionError):
        policy_of(**wrong)


def test_what_alone_means() -> None:
    assert (
        str(policy_of())
        == "all of 24 hours, one for each of 30 days, one for each of 52 weeks, one for each of 84 months"
    )
    assert (policy_of(days=3).daily, policy_of(days=3).pitr_days, policy_of(days=30).pitr_days) == (0, 3, 7)
    assert str(policy_of(days=30, monthly=12)) == "all of 30 days, one for each of 12 months"
