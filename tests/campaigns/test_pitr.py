"""A sample of the targets; `python -m campaigns pitr` restores to a hundred."""

from __future__ import annotations

from pathlib import Path

from campaigns import pitr
from campaigns.campaign import Campaign


def test_targets_on_three_timelines_hold_what_was_committed_before_them(tmp_path: Path) -> None:
    campaign = Campaign("pitr", 1, 0.03, tmp_path)
    pitr.run(campaign)
    assert campaign.counts["targets"] == campaign.counts["refused"] == 3
