"""Which WAL is needed: over timelines, with and without a base for the window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.lsn import Lsn
from pgproof.model.timelines import Switch, TimelineHistory
from pgproof.model.wal_retention import NeededWal, WalBase, needed_wal, window_bases

SIZE = 1 << 20
NOW = datetime(2026, 11, 26, tzinfo=UTC)
DAY = timedelta(days=1)
# Timeline 2 left 1 in the middle of segment 50, timeline 3 left 2 at the beginning of segment 80.
SECOND = TimelineHistory(2, (Switch(1, Lsn(50 * SIZE + 1000)),))
THIRD = TimelineHistory(3, (*SECOND.switches, Switch(2, Lsn(80 * SIZE))))
HISTORIES = {1: TimelineHistory(1), 2: SECOND, 3: THIRD}


def base(timeline: int, segment: int, days: float, good: bool = True) -> WalBase:
    start = Lsn(segment * SIZE + 40)
    name = f"{NOW - days * DAY:%Y%m%dT%H%M%SZ}-full-{segment:06x}"
    return WalBase(name, timeline, start, start + 8192, NOW - days * DAY, good)


def needed(kept: list[WalBase], newest: dict[int, float], days: float = 7) -> NeededWal:
    stored = {timeline: NOW - age * DAY for timeline, age in newest.items()}
    window = window_bases(kept, HISTORIES, stored, NOW - days * DAY)
    return needed_wal(kept, window, HISTORIES, SIZE)


def shown(found: NeededWal, timeline: int) -> list[int]:
    return [number for number in range(100) if (timeline, number) in found]


def test_without_a_backup_all_is_needed() -> None:
    assert shown(needed([], {1: 100}), 1) == list(range(100))


def test_from_the_base_of_the_window_on_and_what_each_backup_needs() -> None:
    kept = [base(1, 5, 300), base(1, 20, 9), base(1, 30, 8), base(1, 40, 2)]
    assert shown(needed(kept, {1: 0}), 1) == [5, 20, *range(30, 100)]
    assert shown(needed([*kept[:2], base(1, 30, 8, good=False), kept[3]], {1: 0}), 1) == [5, *range(20, 100)]


def test_a_young_repository_keeps_all_from_its_first_backup_on() -> None:
    assert shown(needed([base(1, 20, 3), base(1, 30, 1)], {1: 0}), 1) == list(range(20, 100))


def test_what_follows_the_newest_backup_stays_whatever_the_clocks_say() -> None:
    assert shown(needed([base(1, 20, 3), base(1, 30, -1)], {1: 5}, 0), 1) == list(range(20, 100))


def test_over_timelines() -> None:
    """The way to timeline 3 begins with a backup of timeline 1; what 1 wrote after it was left is its own way."""
    kept = [base(1, 30, 8), base(1, 60, 5), base(3, 85, 1)]
    found = needed(kept, {1: 5, 2: 4, 3: 0})
    assert shown(found, 1) == list(range(30, 100))
    assert shown(found, 2) == list(range(50, 100))
    assert shown(found, 3) == list(range(80, 100))
    # Weeks later nobody goes back to before the switch.
    kept = [base(1, 30, 30), base(1, 60, 27), base(3, 85, 20), base(3, 90, 8)]
    found = needed(kept, {1: 27, 2: 26, 3: 0})
    assert (shown(found, 1), shown(found, 2), shown(found, 3)) == ([30, 60], [], [85, *range(90, 100)])


def test_a_timeline_that_no_backup_leads_to_is_kept_while_it_is_new() -> None:
    kept = [base(1, 60, 1)]  # taken after timeline 2 had left
    assert shown(needed(kept, {1: 0, 2: 1}), 2) == list(range(50, 100))
    assert shown(needed(kept, {1: 0, 2: 30}), 2) == []


@given(
    st.lists(st.tuples(st.integers(0, 99), st.floats(0, 400), st.booleans()), max_size=12),
    st.floats(0, 100),
)
def test_every_backup_has_its_own_and_the_window_no_hole(
    backups: list[tuple[int, float, bool]], days: float
) -> None:
    kept = [base(1, segment, age, good) for segment, age, good in backups]
    found = needed(kept, {1: 0}, days)
    for each in kept:
        assert (1, each.start.value // SIZE) in found
    good = sorted((each for each in kept if each.good), key=lambda each: each.backup_id)
    before = [each for each in good if each.at <= NOW - days * DAY]
    first = (before[-1] if before else good[0]).start.value // SIZE if good else 0
    assert set(range(first, 100)) <= set(shown(found, 1))
