"""Which moments can be restored: windows end at holes, begin at backups, and follow timelines."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.lsn import Lsn
from pgproof.model.report import BackupInfo, VerificationSummary
from pgproof.model.restorable import restorable_windows
from pgproof.model.timelines import Switch, TimelineHistory
from pgproof.model.wal_coverage import Coverage, Piece, reachable_end
from pgproof.model.wal_status import Restorable

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
SIZE = 16
ROOT = TimelineHistory(1)


def at(lsn: int) -> datetime:
    """The time at which a byte was written, of a server that writes one a minute."""
    return NOON + timedelta(minutes=lsn)


def backup(start: int, stop: int, timeline: int = 1, **changes: object) -> BackupInfo:
    info = BackupInfo(
        backup_id=f"{at(stop):%Y%m%dT%H%M%SZ}-full-{stop:06x}",
        cluster="main",
        type=BackupType.FULL,
        method="physical",
        status="ok",
        parent_id=None,
        started_at=at(start),
        finished_at=at(stop),
        size_bytes=1,
        stored_bytes=1,
        start_lsn=Lsn(start),
        stop_lsn=Lsn(stop),
        timeline=timeline,
        server_version="18.1",
        system_identifier="7",
        change_detection="none",
    )
    return replace(info, **changes)  # type: ignore[arg-type]


def pieces(*stretches: tuple[int, int, int]) -> list[tuple[Piece, datetime]]:
    return [(Piece(timeline, Lsn(a), Lsn(b)), at(b)) for timeline, a, b in stretches]


def windows(
    backups: list[BackupInfo], stored: list[tuple[Piece, datetime]], *histories: TimelineHistory
) -> list[tuple[int, int, int]]:
    """Timeline, begin and end of each, after it was checked that times fit positions."""
    found = restorable_windows(
        backups,
        Coverage.of(piece for piece, _at in stored),
        {each.timeline: each for each in histories or (ROOT,)},
        SIZE,
        stored,
    )
    assert all(
        (each.oldest, each.newest) == (at(each.oldest_lsn.value), at(each.newest_lsn.value)) for each in found
    )
    return [(each.timeline, each.oldest_lsn.value, each.newest_lsn.value) for each in found]


def test_without_a_backup_wal_leads_nowhere() -> None:
    assert windows([], pieces((1, 0, 64))) == []


def test_a_window_goes_from_the_end_of_the_oldest_backup_to_the_end_of_the_wal() -> None:
    assert windows([backup(4, 9), backup(36, 40)], pieces((1, 0, 60))) == [(1, 9, 60)]


def test_a_hole_ends_a_window_and_the_next_backup_begins_another() -> None:
    stored = pieces((1, 0, 32), (1, 48, 90))
    assert windows([backup(4, 9), backup(20, 22), backup(50, 54)], stored) == [(1, 9, 32), (1, 54, 90)]


def test_a_backup_without_wal_behind_it_is_one_moment() -> None:
    assert windows([backup(4, 9)], []) == [(1, 9, 9)]


def test_what_failed_its_verification_and_what_is_logical_leads_nowhere() -> None:
    failed = backup(4, 9, verified=VerificationSummary(VerifyLevel.FRAMES, NOON, False))
    dump = backup(10, 10, method="logical")
    assert windows([failed, dump, backup(20, 22)], pieces((1, 0, 60))) == [(1, 22, 60)]


def test_a_window_crosses_a_promotion_and_what_was_left_behind_is_one_of_its_own() -> None:
    new = TimelineHistory(2, (Switch(1, Lsn(40)),))
    stored = pieces((1, 0, 64), (2, 32, 90))
    assert windows([backup(4, 9), backup(50, 52)], stored, ROOT, new) == [(2, 9, 90), (1, 52, 64)]


def test_copied_wal_does_not_make_an_old_window_end_late() -> None:
    late = [(piece, NOON + timedelta(days=9)) for piece, _at in pieces((1, 0, 32), (1, 48, 90))]
    found = restorable_windows(
        [backup(4, 9), backup(50, 54)], Coverage.of(piece for piece, _at in late), {1: ROOT}, SIZE, late
    )
    assert [each.newest for each in found] == [at(54), NOON + timedelta(days=9)]


@given(
    starts=st.lists(st.integers(0, 120), max_size=6),
    stretches=st.lists(st.tuples(st.just(1), st.integers(0, 120), st.integers(0, 120)), max_size=6),
)
def test_every_moment_of_a_window_is_reached_from_a_backup_in_it(
    starts: list[int], stretches: list[tuple[int, int, int]]
) -> None:
    backups, stored = [backup(start, start + 3) for start in starts], pieces(*stretches)
    coverage = Coverage.of(piece for piece, _at in stored)
    found: tuple[Restorable, ...] = restorable_windows(backups, coverage, {1: ROOT}, SIZE, stored)
    reached = [
        (each.stop_lsn, max(each.stop_lsn, reachable_end(coverage, each.start_lsn, ROOT, SIZE)))
        for each in backups
    ]
    for lsn in map(Lsn, range(130)):
        promised = any(each.oldest_lsn <= lsn <= each.newest_lsn for each in found)
        assert promised == any(stop <= lsn <= end for stop, end in reached)
