"""Positions that separate what a snapshot sees: found where there is one, and never where there is none."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.exact_point import Snapshot, separating_point
from pgproof.model.lsn import Lsn
from pgproof.model.wal_records import TransactionEnd, WalRecord

END = Lsn(10_000)


def commit(at: int, xid: int) -> TransactionEnd:
    record = WalRecord(Lsn(at), Lsn(at - 1), "Transaction", xid, "COMMIT")
    return TransactionEnd(record, xid & 0xFFFFFFFF, datetime(2026, 11, 25, tzinfo=UTC), True)


@pytest.mark.parametrize(
    ("order", "point"),
    [
        ([], END),
        ([(10, 100), (20, 101)], END),
        ([(10, 100), (20, 105), (30, 107)], Lsn(20)),
        ([(20, 110), (30, 111)], Lsn(20)),
        # In the WAL before one that is seen, but not to be seen yet.
        ([(10, 105), (20, 100)], None),
        ([(10, 110), (20, 104)], None),
    ],
)
def test_what_is_seen_lies_before_it(order: list[tuple[int, int]], point: Lsn | None) -> None:
    snapshot = Snapshot.parse("103:106:103,105")
    assert separating_point([snapshot], [commit(*each) for each in order], END) == point


def test_several_snapshots_need_one_point() -> None:
    first, second = Snapshot.parse("100:101:"), Snapshot.parse("100:103:101")
    assert separating_point([first, second], [commit(10, 99), commit(20, 101), commit(30, 105)], END) == Lsn(
        20
    )
    assert separating_point([first, second], [commit(20, 102)], END) is None


@given(st.integers(0, 3), st.integers(3, (1 << 32) - 1), st.integers(-1000, 1000))
def test_the_lower_half_of_a_number_is_enough(epoch: int, low: int, distance: int) -> None:
    xmax = (epoch << 32) + low
    xid = xmax + distance
    if xid >= 0:
        assert Snapshot(xmax, xmax).sees(xid & 0xFFFFFFFF) == (xid < xmax)


@given(st.lists(st.tuples(st.integers(100, 130), st.booleans()), unique_by=lambda each: each[0], max_size=20))
def test_a_point_has_the_seen_on_one_side_and_the_others_on_the_other(order: list[tuple[int, bool]]) -> None:
    running = tuple(xid for xid, seen in order if not seen)
    snapshot = Snapshot(min([*running, 131]), 131, running)
    commits = [commit(10 * number + 10, xid) for number, (xid, _seen) in enumerate(order)]
    point = separating_point([snapshot], commits, END)
    orders = [seen for _xid, seen in order]
    assert (point is not None) == (orders == sorted(orders, reverse=True))
    if point is not None:
        assert all(snapshot.sees(each.xid) == (each.lsn < point) for each in commits)


def test_a_snapshot_is_read_as_it_is_written() -> None:
    for text in ("3:3:", "10:20:10,14,19"):
        assert str(Snapshot.parse(text)) == text
    for text in ("", "3", "3:4", "a:b:", "3:4:5,", "3:4:,5", "3:4:-1"):
        with pytest.raises(DataError):
            Snapshot.parse(text)
