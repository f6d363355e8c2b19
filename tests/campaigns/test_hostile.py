"""One hostile repository of each kind, and a few more; `python -m campaigns hostile` tries 5,000."""

from __future__ import annotations

from pathlib import Path

from campaigns import hostile
from campaigns.campaign import Campaign


def test_hostile_repositories_are_refused_and_do_no_harm(tmp_path: Path) -> None:
    hostile.run(Campaign("hostile", 1, 0.008, tmp_path))
