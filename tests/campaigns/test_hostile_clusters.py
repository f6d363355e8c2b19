"""One hostile cluster; `python -m campaigns hostile_clusters` tries a dozen, of every major version."""

from __future__ import annotations

from pathlib import Path

from campaigns import hostile_clusters
from campaigns.campaign import Campaign


def test_a_cluster_that_attacks_whoever_starts_it(tmp_path: Path) -> None:
    hostile_clusters.run(Campaign("hostile_clusters", 1, 0.01, tmp_path))
