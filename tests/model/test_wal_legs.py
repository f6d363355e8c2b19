"""What is streamed next, from what is stored and from the server's timelines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.lsn import Lsn
from pgproof.model.timelines import Switch, TimelineHistory
from pgproof.model.wal_coverage import Coverage, Piece
from pgproof.model.wal_legs import Gap, Leg, Position, next_leg

SEG = 100
RESERVED = Position(1, Lsn(730))
ONE = TimelineHistory(1)
TWO = TimelineHistory(2, (Switch(1, Lsn(450)),))
FOUR = TimelineHistory(4, (Switch(1, Lsn(450)), Switch(3, Lsn(870))))


def stored(*pieces: tuple[int, int, int]) -> Coverage:
    return Coverage.of(Piece(timeline, Lsn(a), Lsn(b)) for timeline, a, b in pieces)


def leg(timeline: int, start: int, end: int | None = None) -> Leg:
    return Leg(timeline, Lsn(start), None if end is None else Lsn(end))


@pytest.mark.parametrize(
    ("coverage", "history", "expected"),
    [
        # Nothing is stored: from where the slot keeps WAL, at the start of its segment.
        (stored(), ONE, leg(1, 700)),
        # Ours to the end, wherever the slot stands.
        (stored((1, 200, 420)), ONE, leg(1, 420)),
        # A hole is filled first; what is older than the newest hole is left alone.
        (stored((1, 0, 100), (1, 200, 300), (1, 500, 600)), ONE, leg(1, 300, 500)),
        # The old timeline is finished before the new one begins, from the new primary (C23).
        (stored((1, 200, 420)), TWO, leg(1, 420, 450)),
        (stored((1, 200, 450)), TWO, leg(2, 400)),
        # A tail behind the switch is dead (C11).
        (stored((1, 200, 480)), TWO, leg(2, 400)),
        # The new timeline is there already, from a backup; its beginning and the old one's rest are missing.
        (stored((1, 200, 420), (2, 600, 700)), TWO, leg(1, 420, 450)),
        (stored((1, 200, 450), (2, 600, 700)), TWO, leg(2, 400, 600)),
        (stored((1, 200, 450), (2, 400, 700)), TWO, leg(2, 700)),
        (stored((2, 600, 700)), TWO, leg(2, 700)),
        # Timelines of other branches are nothing to us.
        (stored((1, 200, 450), (2, 400, 900)), FOUR, leg(3, 400, 870)),
        (stored((1, 200, 450), (3, 400, 870)), FOUR, leg(4, 800)),
        (stored((1, 200, 450), (3, 400, 860)), FOUR, leg(3, 860, 870)),
    ],
)
def test_the_next_leg(coverage: Coverage, history: TimelineHistory, expected: Leg) -> None:
    assert next_leg(coverage, history, SEG, RESERVED, set()) == (expected, None)


def test_what_the_server_has_removed_is_a_gap_with_a_name() -> None:
    lost = {Position(1, Lsn(420))}
    found, gap = next_leg(stored((1, 200, 420)), ONE, SEG, RESERVED, lost)
    assert found == leg(1, 700)
    assert gap == Gap(Position(1, Lsn(420)), Position(1, Lsn(700)))
    assert str(gap) == "from 0/1A4 of timeline 1 to 0/2BC of timeline 1"
    # Once something behind it is stored, the gap stays named and streaming goes on there.
    found, gap = next_leg(stored((1, 200, 420), (1, 700, 750)), ONE, SEG, RESERVED, lost)
    assert found == leg(1, 750)
    assert gap == Gap(Position(1, Lsn(420)), Position(1, Lsn(700)))


def test_a_lost_rest_of_the_old_timeline_does_not_keep_the_new_one_away() -> None:
    found, gap = next_leg(stored((1, 200, 420)), TWO, SEG, Position(2, Lsn(455)), {Position(1, Lsn(420))})
    assert found == leg(2, 400)
    assert gap == Gap(Position(1, Lsn(420)), Position(1, Lsn(450)))


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 120), st.integers(1, 30)), max_size=12),
    st.sampled_from([ONE, TWO, FOUR]),
)
def test_streaming_leg_by_leg_leaves_no_hole_behind(
    pieces: list[tuple[int, int, int]], history: TimelineHistory
) -> None:
    """Whatever is stored: a server that has all its WAL brings it to its end in a few legs, and what was asked
    for was missing."""
    end, known = Lsn(1300), [Piece(t, Lsn(a * 10), Lsn((a + n) * 10)) for t, a, n in pieces]
    reserved = Position(history.timeline, Lsn(1290))
    for _ in range(12):
        coverage = Coverage.of(known)
        found, gap = next_leg(coverage, history, SEG, reserved, set())
        assert gap is None
        stop = found.end or max(end, found.start)
        assert coverage.run_end(found.timeline, found.start) == found.start or found.end is None
        if found.end is None:
            break
        known.append(Piece(found.timeline, found.start, stop))
    else:
        raise AssertionError("it does not come to the end")
    assert found.timeline == history.timeline


def test_the_path_is_followed_to_its_end_from_its_root() -> None:
    known, legs = [Piece(1, Lsn(0), Lsn(10))], []
    while True:
        found, _gap = next_leg(Coverage.of(known), FOUR, SEG, RESERVED, set())
        legs.append(found)
        if found.end is None:
            break
        known.append(Piece(found.timeline, found.start, found.end))
    assert legs == [leg(1, 10, 450), leg(3, 400, 870), leg(4, 800)]
