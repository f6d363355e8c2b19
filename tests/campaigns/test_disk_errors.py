"""A sample of the campaign: disks fail and run full under backups, restores, verifications, inits and key changes."""

from __future__ import annotations

import secrets
from pathlib import Path

from campaigns import disk_errors
from campaigns.campaign import Campaign


def test_a_sample(tmp_path: Path) -> None:
    campaign = Campaign("disk_errors", secrets.randbelow(1_000_000), 0.005, tmp_path)
    print(f"seed {campaign.seed}")
    disk_errors.run(campaign)
