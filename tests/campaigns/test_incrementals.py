"""A sample of the campaign of incrementals."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from campaigns.incrementals import one_chain
from pgproof.model.config import ChangeDetection


@pytest.mark.parametrize(
    ("major", "way"),
    [(17, ChangeDetection.SUMMARIES), (18, ChangeDetection.SUMMARIES), (18, ChangeDetection.COMPARE)],
)
def test_a_chain_equals_the_server_page_by_page(major: int, way: ChangeDetection, work_dir: Path) -> None:
    counts = one_chain(work_dir, major, way, length=3, chance=random.Random(major), steps=5)
    print(counts)
    assert counts["backups equal to the server"] >= 3 and counts["chains restored"] == 1
