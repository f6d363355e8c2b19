"""How far recovery can go: joined pieces, and the walk along a path, against a model that goes byte by byte."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.timelines import Switch, TimelineHistory
from pgproof.model.wal_coverage import Coverage, Piece, reachable_end, served_end

# Small enough to look at every byte.
SIZE = 8
END = 6 * SIZE

pieces = st.lists(
    st.builds(
        lambda timeline, start, length: Piece(timeline, Lsn(start), Lsn(start + length)),
        st.integers(1, 4),
        st.integers(0, END),
        st.integers(0, 3 * SIZE),
    ),
    max_size=14,
)


@st.composite
def paths(draw: st.DrawFn) -> TimelineHistory:
    numbers = sorted(draw(st.sets(st.integers(1, 4), min_size=1, max_size=4)))
    switches = sorted(
        draw(st.lists(st.integers(0, END), min_size=len(numbers) - 1, max_size=len(numbers) - 1))
    )
    return TimelineHistory(
        numbers[-1], tuple(Switch(t, Lsn(at)) for t, at in zip(numbers[:-1], switches, strict=True))
    )


def bytes_of(found: list[Piece]) -> dict[int, set[int]]:
    stored: dict[int, set[int]] = {}
    for piece in found:
        stored.setdefault(piece.timeline, set()).update(range(piece.start.value, piece.end.value))
    return {timeline: known for timeline, known in stored.items() if known}


@given(pieces, st.randoms(use_true_random=False))
def test_pieces_join_to_what_they_hold_in_any_order(found: list[Piece], chance: random.Random) -> None:
    coverage, stored = Coverage.of(found), bytes_of(found)
    assert set(coverage.timelines) == set(stored)
    for timeline, known in stored.items():
        stretches = coverage.of_timeline(timeline)
        assert {byte for s in stretches for byte in range(s.start.value, s.end.value)} == known
        assert all(a.end < b.start for a, b in pairwise(stretches)), "a hole lies between each two"
        assert [(g.start, g.end) for g in coverage.gaps(timeline)] == [
            (a.end, b.start) for a, b in pairwise(stretches)
        ]
    shuffled = list(found)
    chance.shuffle(shuffled)
    assert Coverage.of(shuffled) == coverage


@given(pieces, st.integers(1, 4), st.integers(0, END + SIZE))
def test_a_run_ends_before_the_first_missing_byte(found: list[Piece], timeline: int, at: int) -> None:
    known = bytes_of(found).get(timeline, set())
    end = at
    while end in known:
        end += 1
    assert Coverage.of(found).run_end(timeline, Lsn(at)) == Lsn(end)


def server_reads(stored: dict[int, set[int]], start: int, history: TimelineHistory) -> int:
    """PostgreSQL's reading, file by file: the newest timeline that has begun by this segment and has a file."""
    position = start
    while True:
        segment = position // SIZE
        for span in reversed(history.spans()):
            if span.start.value // SIZE > segment:
                continue
            file = segment * SIZE
            while file in stored.get(span.timeline, set()) and file < (segment + 1) * SIZE:
                file += 1
            if file > max(segment * SIZE, span.start.value):
                limit = END * 9 if span.end is None else span.end.value
                break
        else:
            return position
        reached = min(file, limit)
        if reached <= position:
            return position
        position = reached
        if position % SIZE:
            return position


@settings(max_examples=400)
@given(pieces, st.integers(0, END), paths())
def test_replay_reaches_what_the_server_would_read(
    found: list[Piece], start: int, history: TimelineHistory
) -> None:
    assert reachable_end(Coverage.of(found), Lsn(start), history, SIZE) == Lsn(
        server_reads(bytes_of(found), start, history)
    )


@settings(max_examples=300)
@given(pieces, st.integers(0, END), paths())
def test_a_hole_is_never_passed(found: list[Piece], start: int, history: TimelineHistory) -> None:
    end = reachable_end(Coverage.of(found), Lsn(start), history, SIZE).value
    stored = bytes_of(found)
    for byte in range(start, end):
        owner = history.timeline_at(Lsn(byte))
        # Its own timeline has it, or the copy at the beginning of a newer timeline's first file.
        copies = [
            span.timeline
            for span in history.spans()
            if span.start.value > byte and span.start.value // SIZE == byte // SIZE
        ]
        assert any(byte in stored.get(timeline, set()) for timeline in [owner, *copies])


def test_what_an_abandoned_timeline_went_on_to_write_leads_nowhere() -> None:
    history = TimelineHistory(2, (Switch(1, Lsn(12)),))
    divergent = [Piece(1, Lsn(0), Lsn(40))]
    assert reachable_end(Coverage.of(divergent), Lsn(0), history, SIZE) == Lsn(12)
    followed = [*divergent, Piece(2, Lsn(8), Lsn(32))]
    assert reachable_end(Coverage.of(followed), Lsn(0), history, SIZE) == Lsn(32)
    late = [*divergent, Piece(2, Lsn(12), Lsn(32))]
    assert reachable_end(Coverage.of(late), Lsn(0), history, SIZE) == Lsn(12), "its file has no beginning"


def test_a_file_without_anything_of_its_own_timeline_is_not_served() -> None:
    coverage = Coverage.of([Piece(2, Lsn(8), Lsn(11))])
    segment = WalSegment(2, 1, SIZE)
    assert served_end(coverage, segment, Lsn(12)) is None
    assert served_end(coverage, segment, Lsn(11)) is None
    assert served_end(coverage, segment, Lsn(10)) == Lsn(11)
    assert served_end(coverage, WalSegment(2, 2, SIZE), Lsn(0)) is None


def test_a_long_archive_is_walked_by_its_runs() -> None:
    size = 16 << 20
    wal = [Piece(1, Lsn(n * size), Lsn((n + 1) * size)) for n in range(200_000)]
    coverage = Coverage.of(wal)
    history = TimelineHistory(2, (Switch(1, Lsn(199_999 * size + 5)),))
    assert reachable_end(coverage, Lsn(7), history, size) == Lsn(199_999 * size + 5)
