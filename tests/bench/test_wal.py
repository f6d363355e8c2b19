"""The benchmark of single WAL files, with three segments."""

from __future__ import annotations

from bench.wal import BACKREST, FETCH, OURS, PUSH, PUSH_AHEAD, Measured, markdown, measurements


def test_three_segments_are_pushed_and_fetched() -> None:
    found = list(measurements(3, "directory", alone=True))
    assert [(each.name, each.operation) for each in found] == [(OURS, o) for o in (PUSH, PUSH_AHEAD, FETCH)]
    assert all(0 < each.median <= each.p90 and each.segments == 3 for each in found)


def test_the_table_shows_targets_for_us_alone() -> None:
    found = [Measured(name, PUSH, "S3", 41.4, 60.0, 900.0, 30) for name in (OURS, BACKREST)]
    assert markdown(found).splitlines()[2:] == [
        "| push, S3 | pgproof | 41 | 60 | 900 | 45 |",
        "| push, S3 | pgBackRest | 41 | 60 | 900 |  |",
    ]
