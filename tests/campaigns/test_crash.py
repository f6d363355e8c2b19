"""A sample of the crash campaigns, and that the points they kill at exist."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from campaigns import crash, crash_points, server_crash
from campaigns.campaign import Campaign


def test_points_have_names_of_their_own() -> None:
    names = crash_points.names_in_source()
    assert len(names) >= 60
    assert all(re.fullmatch(r"[a-z]+(\.[a-z]+)+", name) for name in names)


def test_the_program_killed_anywhere(tmp_path: Path) -> None:
    campaign = Campaign("crash", secrets.randbelow(1_000_000), 0.01, tmp_path)
    print(f"seed {campaign.seed}")
    crash.run(campaign)
    assert campaign.counts["points killed at"] > 1


def test_the_server_killed_during_backups(tmp_path: Path) -> None:
    campaign = Campaign("server_crash", secrets.randbelow(1_000_000), 0.04, tmp_path)
    print(f"seed {campaign.seed}")
    server_crash.run(campaign)
    assert campaign.counts["backups after a crash"] == 4
