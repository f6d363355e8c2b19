"""What counts as a problem of the WAL, and what the words say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.lsn import Lsn
from pgproof.model.timelines import Switch, TimelineHistory
from pgproof.model.wal_coverage import Coverage, Piece, Stretch, reachable_end
from pgproof.model.wal_gaps import WalGap, gaps_on_the_way
from pgproof.model.wal_legs import Position
from pgproof.model.wal_problems import problems_of
from pgproof.model.wal_status import (
    PrimaryStatus,
    Restorable,
    SlotStatus,
    TimelineStatus,
    WalLimits,
    WalStatus,
    wal_rate,
)

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
SLOT = SlotStatus("pgproof", True, Lsn(900), "reserved", 800, 200, None, None)
PRIMARY = PrimaryStatus(
    "18.1",
    1,
    Lsn(1000),
    False,
    "pgproof",
    SLOT,
    "async",
    100,
    0.5,
    10.0,
    10**9,
)
FINE = WalStatus(
    "main",
    NOON,
    (TimelineStatus(1, None, None, (Stretch(Lsn(0), Lsn(900)),)),),
    (),
    Restorable(1, Lsn(100), NOON - timedelta(days=3), Lsn(900), NOON),
    PRIMARY,
    "",
)


def kinds(status: WalStatus, **limits: Any) -> list[str]:
    return [problem.kind for problem in problems_of(status, WalLimits(**limits))]


def with_slot(**changes: Any) -> WalStatus:
    return replace(FINE, primary=replace(PRIMARY, slot=replace(SLOT, **changes)))


def with_primary(**changes: Any) -> WalStatus:
    return replace(FINE, primary=replace(PRIMARY, **changes))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (FINE, []),
        (replace(FINE, gaps=(WalGap(1, Lsn(5), Lsn(9), bridged=True),)), []),
        (replace(FINE, gaps=(WalGap(1, Lsn(5), Lsn(9), bridged=False),)), ["gap"]),
        (replace(FINE, restorable=None), ["no-backup"]),
        (replace(FINE, primary=None, server_problem="it is away"), ["server"]),
        (with_primary(slot=None), ["slot-missing"]),
        (with_slot(wal_status="lost", active=False, safe_bytes=None), ["slot-lost"]),
        (with_slot(invalidation_reason="idle_timeout"), ["slot-lost"]),
        (with_slot(wal_status="unreserved"), ["slot-in-danger"]),
        (with_slot(safe_bytes=400, retained_bytes=600), ["slot-in-danger"]),
        (with_slot(safe_bytes=None, retained_bytes=10**12), []),
        (with_slot(active=False), ["not-streaming"]),
        (with_primary(lag_bytes=300 << 20), ["lag"]),
        (with_primary(lag_seconds=61.0), ["lag"]),
        (with_primary(lag_bytes=None, lag_seconds=None), ["nothing-stored"]),
        # The disk only fills while nobody takes the WAL away.
        (with_primary(free_bytes=1000), []),
        (
            with_primary(free_bytes=1000, slot=replace(SLOT, active=False)),
            ["not-streaming", "disk-full"],
        ),
    ],
)
def test_problems(status: WalStatus, expected: list[str]) -> None:
    assert kinds(status) == expected
    assert all(problem.message and problem.hint for problem in problems_of(status, WalLimits()))


def test_limits_are_the_operators() -> None:
    assert kinds(FINE, lag_bytes=99) == ["lag"]
    assert kinds(FINE, lag_seconds=0.4) == ["lag"]


def test_how_long_until_it_is_full_or_lost() -> None:
    assert PRIMARY.seconds_to_full == 1e8
    assert PRIMARY.seconds_to_lost == 80
    assert replace(PRIMARY, bytes_per_second=None).seconds_to_full is None
    assert replace(PRIMARY, free_bytes=None).seconds_to_full is None


def test_the_rate_is_that_of_the_last_hour_with_wal() -> None:
    stored = [(NOON + timedelta(minutes=minute), Lsn(10**6 + 6000 * minute)) for minute in range(-90, 1)]
    assert wal_rate(stored) == pytest.approx(100)
    assert wal_rate(stored[-1:]) is None
    assert wal_rate([]) is None


def test_json_says_everything() -> None:
    document = replace(FINE, gaps=(WalGap(1, Lsn(5), Lsn(9), bridged=False),)).to_json()
    assert document["gaps"] == [
        {"timeline": 1, "start_lsn": "0/5", "end_lsn": "0/9", "bytes": 4, "bridged": False, "minimal": False}
    ]
    assert document["primary"]["slot"]["safe_wal_size"] == 800
    assert document["restorable"]["newest_lsn"] == "0/384"


SEG = 100
TWO = TimelineHistory(2, (Switch(1, Lsn(450)),))


def gaps(pieces: list[tuple[int, int, int]], *backups: tuple[int, int]) -> list[tuple[int, int, int, bool]]:
    coverage = Coverage.of(Piece(timeline, Lsn(a), Lsn(b)) for timeline, a, b in pieces)
    found = gaps_on_the_way(coverage, TWO, SEG, [Position(t, Lsn(at)) for t, at in backups])
    return [(gap.timeline, gap.start.value, gap.end.value, gap.bridged) for gap in found]


@pytest.mark.parametrize(
    ("pieces", "backups", "expected"),
    [
        ([], [], []),
        ([(1, 100, 450), (2, 400, 900)], [], []),
        ([(1, 100, 200), (1, 300, 450), (2, 400, 900)], [], [(1, 200, 300, False)]),
        ([(1, 100, 200), (1, 300, 450), (2, 400, 900)], [(1, 310)], [(1, 200, 300, True)]),
        ([(1, 100, 200), (1, 300, 450), (2, 400, 900)], [(1, 110)], [(1, 200, 300, False)]),
        ([(1, 100, 420), (2, 400, 900)], [], [(1, 420, 450, False)]),
        ([(1, 100, 450), (2, 500, 900)], [], [(2, 400, 500, False)]),
        ([(1, 100, 450), (2, 500, 900)], [(2, 520)], [(2, 400, 500, True)]),
        # A tail behind the switch is no gap, and fills none.
        ([(1, 100, 480), (2, 400, 900)], [], []),
        ([(2, 500, 900)], [], []),
    ],
)
def test_gaps_on_the_way(
    pieces: list[tuple[int, int, int]],
    backups: list[tuple[int, int]],
    expected: list[tuple[int, int, int, bool]],
) -> None:
    assert gaps(pieces, *backups) == expected


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 12), st.integers(1, 4)), min_size=1, max_size=8))
def test_without_a_gap_everything_is_reachable(raw: list[tuple[int, int, int]]) -> None:
    """Agrees with the rule for what recovery can reach: no gap means that replay from the first byte gets to the
    last one."""
    # Nothing is ever stored of a timeline before the segment in which it begins.
    starts = [(t, max(a, 4) if t == 2 else a, n) for t, a, n in raw]
    pieces = [Piece(t, Lsn(a * SEG), Lsn((a + n) * SEG)) for t, a, n in starts]
    coverage = Coverage.of(pieces)
    if not coverage.of_timeline(1) or not coverage.of_timeline(2):
        return
    first = coverage.of_timeline(1)[0].start
    if first >= Lsn(450) or gaps_on_the_way(coverage, TWO, SEG, []):
        return
    assert reachable_end(coverage, first, TWO, SEG) == coverage.of_timeline(2)[-1].end
