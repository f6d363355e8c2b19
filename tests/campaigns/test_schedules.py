"""A sample of the campaign: a cleanup and a backup by their schedules."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

from campaigns import schedules
from campaigns.campaign import Campaign


def test_a_sample(tmp_path: Path) -> None:
    campaign = Campaign("schedules", secrets.randbelow(1_000_000), 0, tmp_path)
    print(f"seed {campaign.seed}")
    schedules.live_until(campaign, datetime(2026, 2, 1, 3, 6, tzinfo=UTC), 0.2)
    assert campaign.counts["runs by schedule"] == 2
