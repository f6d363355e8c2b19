"""A small share of the search for planted secrets (full size, with Prefect: `make campaign`)."""

from __future__ import annotations

import secrets as chance
from pathlib import Path

from campaigns import secrets
from campaigns.campaign import Campaign


def test_a_small_share_passes(tmp_path: Path) -> None:
    campaign = Campaign("secrets", chance.randbelow(1_000_000), 0.02, tmp_path)
    print(f"seed {campaign.seed}")
    secrets.run(campaign)
