"""A sample of the campaign: the streamer and its server are killed."""

from __future__ import annotations

import secrets
from pathlib import Path

from campaigns import wal_stream
from campaigns.campaign import Campaign


def test_a_sample(tmp_path: Path) -> None:
    campaign = Campaign("wal_stream", secrets.randbelow(1_000_000), 0.02, tmp_path)
    print(f"seed {campaign.seed}")
    wal_stream.run(campaign)
