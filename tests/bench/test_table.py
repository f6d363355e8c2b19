"""The table and the targets are right about figures that are known."""

from __future__ import annotations

from typing import Any

import pytest

from bench.contender import FULL, RESTORE
from bench.limits import NAME as LIMIT
from bench.limits import STREAM, ZSTD_FRAMES, ZSTD_ONE
from bench.ours import NAME as OURS
from bench.table import BACKREST, BEGIN, END, markdown, rows, targets


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


def test_the_table_can_be_put_into_the_readme() -> None:
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
    text = markdown({"about": about, "measurements": MEASURED})
    assert text.startswith(BEGIN)
    assert text.endswith(f"{END}\n")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {10, 4}, "the big table and the targets"
    peer = next(line for line in table if line.startswith("| pgBackRest "))
    assert [cell.strip() for cell in peer.split("|")][-3:-1] == ["0.80", "0.90"]
    assert "**missed**" in text
