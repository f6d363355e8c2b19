"""The choice of backup and timeline, against an oracle that tries every byte of every way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.errors import PreconditionError
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_choice import (
    Base,
    choose_bases,
    choose_timeline,
    find_reaches,
    refuse,
    refuse_branches,
    why_unreachable,
)
from pgproof.model.timelines import Switch, TimelineHistory
from pgproof.model.wal_coverage import Coverage, Piece

SEGMENT = 8
END = 64
AT = datetime(2026, 11, 25, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """A tree of timelines, the WAL that is stored of it, byte by byte, and backups."""

    histories: dict[int, TimelineHistory]
    stored: dict[int, frozenset[int]]
    bases: tuple[Base, ...]

    @property
    def coverage(self) -> Coverage:
        return Coverage.of(
            Piece(timeline, Lsn(at), Lsn(at + 1)) for timeline, bytes_ in self.stored.items() for at in bytes_
        )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    histories = {1: TimelineHistory(1)}
    for timeline in (2, 3, 4):
        parent = histories[draw(st.sampled_from(sorted(histories)))]
        at = draw(st.integers(parent.begin.value, END - 1))
        switch = Switch(parent.timeline, Lsn(at))
        histories[timeline] = TimelineHistory(timeline, (*parent.switches, switch))
    stored = {}
    for timeline, history in histories.items():
        first = history.begin.value // SEGMENT * SEGMENT
        holes = draw(st.lists(st.tuples(st.integers(first, END), st.integers(1, 6)), max_size=2))
        missing = {at for start, length in holes for at in range(start, start + length)}
        stored[timeline] = frozenset(range(first, draw(st.integers(first, END)))) - missing
    bases = []
    for number in range(draw(st.integers(1, 4))):
        timeline = draw(st.sampled_from(sorted(histories)))
        start = draw(st.integers(histories[timeline].begin.value, END))
        stop = draw(st.integers(start, min(start + 10, END + 10)))
        bases.append(Base(f"b{number}", timeline, Lsn(start), Lsn(stop), AT + timedelta(minutes=stop)))
    return World(histories, stored, tuple(bases))


def readable(world: World, history: TimelineHistory, at: int) -> bool:
    """Whether a server on this way can read the byte: from the newest timeline that has the segment's file."""
    spans = history.spans()
    segment = at // SEGMENT * SEGMENT
    for number in reversed(range(len(spans))):
        span = spans[number]
        if span.start.value // SEGMENT * SEGMENT > segment:
            continue
        end = segment
        while end < segment + SEGMENT and end in world.stored[span.timeline]:
            end += 1
        if end <= max(span.start.value, segment):
            continue
        return at < end and (span.end is None or at < span.end.value)
    return False


def possible(world: World, history: TimelineHistory, base: Base, target: int) -> bool:
    on_the_way = any(
        span.timeline == base.timeline
        and span.start <= base.stop
        and (span.end is None or base.stop <= span.end)
        for span in history.spans()
    )
    return (
        on_the_way
        and base.stop.value <= target
        and all(readable(world, history, at) for at in range(base.start.value, target))
    )


@settings(max_examples=150)
@given(worlds())
def test_every_target_gets_the_newest_backup_that_leads_to_it_or_is_refused(world: World) -> None:
    for history in world.histories.values():
        reaches = find_reaches(world.bases, world.coverage, history, SEGMENT)
        for target in range(END + 12):
            expected = [base for base in world.bases if possible(world, history, base, target)]
            found = choose_bases(reaches, Lsn(target))
            assert set(found) == set(expected), (history, target)
            if expected:
                assert found[0].stop == max(base.stop for base in expected)
            else:
                assert why_unreachable(reaches, Lsn(target))


@settings(max_examples=100)
@given(worlds())
def test_the_newest_position_is_the_last_that_any_backup_leads_to(world: World) -> None:
    for history in world.histories.values():
        reaches = find_reaches(world.bases, world.coverage, history, SEGMENT)
        last = max(
            (
                target
                for target in range(END + 12)
                if any(possible(world, history, base, target) for base in world.bases)
            ),
            default=None,
        )
        found = choose_bases(reaches, None)
        if last is None:
            assert found == []
        else:
            assert reaches[-1].end == Lsn(last)
            assert possible(world, history, found[0], last)


@settings(max_examples=100)
@given(worlds())
def test_without_a_wish_the_newest_timeline_that_a_backup_leads_to_is_taken(world: World) -> None:
    def leads(base: Base, timeline: int) -> bool:
        return world.histories[timeline].passes(base.timeline, base.stop)

    for base in (None, *world.bases):
        starts = world.bases if base is None else (base,)
        fitting = [t for t in world.histories if any(leads(each, t) for each in starts)]
        if fitting:
            found = choose_timeline(None, world.histories, world.bases, base)
            assert found.timeline == max(fitting)
        else:
            with pytest.raises(PreconditionError, match="no backup leads"):
                choose_timeline(None, world.histories, world.bases, base)


def test_a_timeline_that_left_before_the_backup_ended_is_refused() -> None:
    histories = {1: TimelineHistory(1), 2: TimelineHistory(2, (Switch(1, Lsn(20)),))}
    base = Base("b", 1, Lsn(10), Lsn(30), AT)
    assert choose_timeline(None, histories, [base], base).timeline == 1
    with pytest.raises(PreconditionError, match="branched off"):
        choose_timeline(2, histories, [base], base)
    with pytest.raises(PreconditionError, match="does not know this timeline"):
        choose_timeline(3, histories, [base], base)


def test_a_standby_is_not_left_to_follow_a_clone_of_its_primary() -> None:
    histories = {1: TimelineHistory(1), 2: TimelineHistory(2, (Switch(1, Lsn(20)),))}
    to_the_switch = Coverage.of([Piece(1, Lsn(0), Lsn(24)), Piece(2, Lsn(16), Lsn(40))])
    lives_on = Coverage.of([Piece(1, Lsn(0), Lsn(32)), Piece(2, Lsn(16), Lsn(40))])
    refuse_branches(histories, histories[2], to_the_switch, SEGMENT)
    three = {**histories, 3: TimelineHistory(3, (Switch(1, Lsn(10)),))}
    for known, timeline, coverage in [
        (histories, 2, lives_on),
        (histories, 1, to_the_switch),
        (three, 3, to_the_switch),
    ]:
        with pytest.raises(PreconditionError, match="branched"):
            refuse_branches(known, known[timeline], coverage, SEGMENT)


def test_a_refusal_names_what_can_be_reached_and_the_hole() -> None:
    coverage = Coverage.of([Piece(1, Lsn(0), Lsn(20)), Piece(1, Lsn(32), Lsn(48))])
    bases = [Base("a", 1, Lsn(2), Lsn(5), AT), Base("b", 1, Lsn(32), Lsn(40), AT + timedelta(hours=1))]
    reaches = find_reaches(bases, coverage, TimelineHistory(1), SEGMENT)
    assert [(each.start, each.end, each.missing) for each in reaches] == [
        (Lsn(5), Lsn(20), Lsn(32)),
        (Lsn(40), Lsn(48), None),
    ]
    assert "hole in the WAL that begins at 0/14" in why_unreachable(reaches, Lsn(30))
    assert "before the end of the oldest" in why_unreachable(reaches, Lsn(3))
    assert "behind the end" in why_unreachable(reaches, Lsn(50))
    error = refuse("the target lies behind a hole", reaches, {2})
    assert "nothing was written" in error.message
    for fact in ("0/5 to 0/14", "2026-11-25 00:00:00 UTC", "missing from 0/14 to 0/20", "other timelines: 2"):
        assert fact in error.hint
