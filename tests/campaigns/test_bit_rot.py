"""A sample of the flips; `python -m campaigns bit_rot` tries 200,000."""

from __future__ import annotations

from pathlib import Path

from campaigns import bit_rot
from campaigns.campaign import Campaign


def test_a_turned_bit_is_found_and_named_and_not_restored(tmp_path: Path) -> None:
    campaign = Campaign("bit_rot", 1, 0.003, tmp_path)
    bit_rot.run(campaign)
    assert all(campaign.counts[f"flips in a {kind}"] >= 50 for kind in bit_rot.KINDS)
