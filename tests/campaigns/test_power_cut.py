"""A sample of the campaign: the power goes in the middle of backups, restores, inits and key changes."""

from __future__ import annotations

import secrets
from pathlib import Path

from campaigns import power_cut
from campaigns.campaign import Campaign


def test_a_sample(tmp_path: Path) -> None:
    campaign = Campaign("power_cut", secrets.randbelow(1_000_000), 0.01, tmp_path)
    print(f"seed {campaign.seed}")
    power_cut.run(campaign)
