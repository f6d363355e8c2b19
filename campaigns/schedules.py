"""A week of the recommended schedules in compressed time.

docs/campaigns.md tells how a week goes by so fast.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from campaigns.campaign import Campaign
from campaigns.schedules_model import RETENTION
from campaigns.schedules_week import OBJECTIVES, Week
from campaigns.schedules_world import World
from pgproof.model.config import VerifyLevel
from pgproof.model.report import BackupInfo
from tests.support.moved_clock import MovedClock

# Sundays that begin a month: with them everything that is recommended has been due within a week.
_SUNDAYS = ((2026, 2, 1), (2026, 3, 1), (2025, 6, 1))
# Less than the least has no room for the troubles of a day; that of the proof takes all of the week.
_HOURS, _LEAST, _TROUBLES = 168, 28, 6


def run(campaign: Campaign) -> None:
    end = datetime(*campaign.random("week").choice(_SUNDAYS), 6, tzinfo=UTC)
    hours = campaign.times(_HOURS, _LEAST)
    live_until(campaign, end, hours)
    campaign.require("runs by schedule", 2 * _HOURS - 20, 2 * _LEAST - 14)
    troubles = _TROUBLES if hours == _HOURS else _TROUBLES - 1
    assert campaign.counts["troubles"] == troubles
    assert campaign.counts["notifications"] == 2 * troubles, "one for each trouble and one for its end"
    assert hours < _HOURS or campaign.counts["backups removed by the weekly cleanup"] > _HOURS // 2


def live_until(campaign: Campaign, end: datetime, hours: int) -> None:
    """So many hours of the service, from its installation on, and what is left of them."""
    start = end - timedelta(hours=hours)
    with World(MovedClock.at(start - timedelta(minutes=10)), RETENTION | OBJECTIVES, ["--no-wal"]) as world:
        world.cluster.psql("CREATE TABLE ledger (at timestamptz, line text)")
        world.must("init")
        world.start_streamer()
        world.must("create", "--type", "full")
        week = Week(campaign, world, start, end)
        week.plan_trouble()
        world.must("verify", "latest", "--level", "start")
        world.start_service()
        world.script("deployments/automations.py")
        week.live()
        week.clean_up_at_the_end()
        verify_backups(campaign, world, world.backups()[-5:])


def verify_backups(campaign: Campaign, world: World, backups: list[BackupInfo]) -> None:
    """Every frame of these, and the newest is restored and started."""
    manager = world.manager()
    for each in backups:
        frames = asyncio.run(manager.verify_backup(each.backup_id, VerifyLevel.FRAMES))
        assert frames.ok, frames
        campaign.count("backups whose frames were verified")
    started = asyncio.run(manager.verify_backup(backups[-1].backup_id, VerifyLevel.START))
    assert started.ok and started.proven, started
    campaign.count("backups restored and started")
