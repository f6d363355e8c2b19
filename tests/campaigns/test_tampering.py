"""A sample of the changes; `python -m campaigns tampering` makes them all."""

from __future__ import annotations

from pathlib import Path

from campaigns import tampering
from campaigns.campaign import Campaign


def test_changed_objects_are_found_and_named_and_not_restored(tmp_path: Path) -> None:
    tampering.run(Campaign("tampering", 1, 0.003, tmp_path))
