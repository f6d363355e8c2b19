"""A small share of the random histories of a repository (full size: `make campaign`)."""

from __future__ import annotations

import secrets
from pathlib import Path

from campaigns import repository_model
from campaigns.campaign import Campaign


def test_a_small_share_passes(tmp_path: Path) -> None:
    campaign = Campaign("repository_model", secrets.randbelow(1_000_000), 0.015, tmp_path)
    print(f"seed {campaign.seed}")
    repository_model.run(campaign)
