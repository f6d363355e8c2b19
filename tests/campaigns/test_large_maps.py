"""A sample of the campaign of large maps: the memory of planning is bounded, whatever the cluster's size."""

from __future__ import annotations

from pathlib import Path

from campaigns.large_maps import measure


def test_incrementals_of_a_large_cluster(work_dir: Path) -> None:
    found = measure(work_dir / "repository", files=200, seed=1)
    print(found)
    # Of 200 GiB; the memory hardly grows from here on, because the tables of runs wait in files.
    assert found["peak memory, MB"] < 400
