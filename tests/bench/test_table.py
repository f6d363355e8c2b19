"""The table and the targets are right about figures that are known."""

from __future__ import annotations

from typing import Any

import pytest

from bench.contender import FULL, INCREMENTAL, RESTORE, TENTH
from bench.limits import NAME as LIMIT
from bench.limits import STREAM, ZSTD_FRAMES, ZSTD_ONE
from bench.ours import NAME as OURS
from bench.ours import SUMMARIES
from bench.table import BACKREST, markdown, rows, targets


def measured(name: str, operation: str, wall: float, **other: Any) -> dict[str, Any]:
    known = {"major": 15, "place": "directory", "cpu": 1.0, "memory_mb": 10.0, "server_cpu": 0.0}
    return {
        "name": name,
        "operation": operation,
        "wall": wall,
        **known,
        "store_cpu": 0.0,
        "stored_mb": 0.0,
        "objects": 0,
        **other,
    }


MEASURED = [
    *(measured(OURS, FULL, wall, cpu=8.0, stored_mb=900, memory_mb=wall) for wall in (7, 30, 8)),
    *(measured(BACKREST, FULL, wall, stored_mb=1000) for wall in (10, 11, 9)),
    measured(LIMIT, STREAM, 3, cpu=1.5, server_cpu=0.5, place=""),
    measured(LIMIT, ZSTD_ONE, 6, cpu=5.0, place=""),
    measured(LIMIT, ZSTD_FRAMES, 5, cpu=4.0, place=""),
]


def test_rows_are_medians_and_the_highest_memory() -> None:
    ours = rows(MEASURED)[15, "directory", FULL, OURS]
    assert (ours.wall, ours.memory_mb) == (8, 30)
    assert ours.spread == pytest.approx(30 / 7)


def test_targets_are_computed_from_what_was_measured() -> None:
    found = {target.what: target for target in targets(rows(MEASURED), cores=2, gigabytes=2.0)}
    wall = found["full backup, wall time by pgBackRest's"]
    assert (wall.value, wall.met) == (0.8, True)
    assert found["full backup, bytes by pgBackRest's"].value == pytest.approx(0.9)
    floor = next(target for what, target in found.items() if "cores" in what)
    assert floor.value == pytest.approx(8 / 3.5)
    assert not floor.met
    rest = next(target for what, target in found.items() if "beyond" in what)
    assert rest.value == pytest.approx(1.25)
    assert not rest.met
    assert not any(RESTORE in what for what in found), "nothing is said of what was not measured"


def test_targets_of_incrementals() -> None:
    later = [
        measured(OURS, RESTORE, 4.0, major=17),
        measured(LIMIT, STREAM, 2.0, major=17, place=""),
        measured(OURS, INCREMENTAL, 2.4, major=17, stored_mb=6.0, changed_mb=5.0),
        measured(SUMMARIES, INCREMENTAL, 1.0, major=17, stored_mb=8.0, changed_mb=5.0),
        measured(SUMMARIES, TENTH, 5.0, major=17),
        measured(BACKREST, INCREMENTAL, 6.0),
    ]
    found = {target.what: (target.value, target.met) for target in targets(rows(later), 2, 2.0)}
    where = "PostgreSQL 17, directory: "
    stored = "stored bytes by its changed pages' in one stream of `zstd -3`"
    memory = found.pop("peak memory of any of our operations")
    assert memory == (10, True)
    assert found == {
        f"{where}incremental (compare), wall time by the raw stream's": (1.2, True),
        f"{where}incremental (compare), {stored}": (1.2, True),
        f"{where}incremental (summaries), {stored}": (1.6, False),
        f"{where}incremental (summaries), wall time by pgBackRest's on 15": (1 / 6, True),
        f"{where}restore of the tenth incremental (summaries), wall time by the full's": (1.25, False),
    }


def test_the_table_and_the_targets() -> None:
    about = {
        "date": "2026-01-02",
        "rounds": 3,
        "cores": 2,
        "processor": "a processor",
        "memory_gb": 24,
        "system": "Linux 6",
        "data_bytes": 2_000_000_000,
        "data_files": 5000,
        "programs": ["pgBackRest 2.45"],
    }
    text = markdown(about, MEASURED)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {10, 4}, "the big table and the targets"
    peer = next(line for line in table if line.startswith("| pgBackRest "))
    assert [cell.strip() for cell in peer.split("|")][-3:-1] == ["0.80", "0.90"]
    assert "**missed**" in text
