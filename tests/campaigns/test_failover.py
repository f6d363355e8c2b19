"""A sample of the campaign: clusters that are written to fail over, and are switched over."""

from __future__ import annotations

import secrets
from pathlib import Path

from campaigns import failover
from campaigns.campaign import Campaign


def test_a_sample(tmp_path: Path) -> None:
    campaign = Campaign("failover", secrets.randbelow(1_000_000), 0.01, tmp_path)
    print(f"seed {campaign.seed}")
    failover.run(campaign)
