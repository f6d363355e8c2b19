"""Fingerprints as they are stored: whatever else lies there is damage."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from pgproof.errors import DataError
from pgproof.model.exact_point import Snapshot
from pgproof.model.fingerprints import DatabaseFingerprint, TableFingerprint, UnreadTable
from pgproof.model.lsn import Lsn
from pgproof.model.source_fingerprint import SourceFingerprint

SAMPLE = SourceFingerprint(
    "7300000000000000001",
    1,
    Lsn(0x2000028),
    datetime(2026, 11, 25, 10, tzinfo=UTC),
    1.5,
    (
        DatabaseFingerprint(
            "app", "UTF8", (TableFingerprint("s", "t", 3, "-12", 4),), (UnreadTable("s", "u", "no right"),)
        ),
    ),
    (Snapshot(740, 745, (741, 743)),),
)


def test_it_comes_back() -> None:
    assert SourceFingerprint.from_json(json.loads(json.dumps(SAMPLE.to_json()))) == SAMPLE


@pytest.mark.parametrize(
    "change",
    [
        {"timeline": float("inf")},
        {"timeline": 0},
        {"timeline": True},
        {"seconds": 10**400},
        {"seconds": float("nan")},
        {"taken_at": "2026-11-25T10:00:00"},
        {"lsn": 5},
        {"system_identifier": None},
        {"databases": {"x": 1}},
        {"snapshots": ["9" * 5000 + ":1:"]},
    ],
)
def test_what_nobody_wrote_is_damage(change: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        SourceFingerprint.from_json(SAMPLE.to_json() | change)


@pytest.mark.parametrize(
    "change",
    [{"hash": float("inf")}, {"hash": 1}, {"name": "\ud800"}, {"name": None}, {"rows": -1}, {"one_in": 3}],
)
def test_so_are_tables_that_nobody_wrote(change: dict[str, Any]) -> None:
    value = SAMPLE.databases[0].to_json()
    value["tables"][0] |= change
    with pytest.raises(DataError):
        DatabaseFingerprint.from_json(value)
