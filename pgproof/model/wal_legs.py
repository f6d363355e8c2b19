"""Which WAL to stream next, from what is stored and from the way of the server's timelines.

What is missing is fetched oldest first: the rest of a timeline that was left (the new primary archives nothing of
it), then the next timeline from the start of the segment that holds the switch. Behind the switch the old
timeline is dead: what was received of it stays where it is and is never continued.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from pgproof.model.lsn import Lsn
from pgproof.model.timelines import Span, TimelineHistory
from pgproof.model.wal_coverage import Coverage, Stretch


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the WAL of one timeline."""

    timeline: int
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.lsn} of timeline {self.timeline}"


@dataclass(frozen=True, slots=True)
class Leg:
    """A stretch of one timeline to stream. Without `end` it goes on for as long as the timeline does."""

    timeline: int
    start: Lsn
    end: Lsn | None

    @property
    def begin(self) -> Position:
        return Position(self.timeline, self.start)


@dataclass(frozen=True, slots=True)
class Gap:
    """WAL that is missing in the repository, and that the server has no longer."""

    missing: Position
    continued: Position

    def __str__(self) -> str:
        return f"from {self.missing} to {self.continued}"


def next_leg(
    coverage: Coverage, history: TimelineHistory, segment_size: int, reserved: Position, lost: Set[Position]
) -> tuple[Leg, Gap | None]:
    """What to stream now, and the gap that this leaves behind.

    `reserved` is where the slot keeps WAL from; `lost` are beginnings of legs that the server has removed.
    """
    gap: tuple[Position, Lsn | None] | None = None
    leg: Leg | None = None
    for each in _legs(coverage, history, segment_size):
        if each.begin not in lost:
            leg = each
            break
        gap = gap or (each.begin, each.end)
    if leg is None:
        start = reserved.lsn.segment_start(segment_size)
        ends = {span.timeline: span.end for span in history.spans()}
        leg = Leg(reserved.timeline, start, ends.get(reserved.timeline))
    if gap is None:
        return leg, None
    missing, end = gap
    return leg, Gap(missing, leg.begin if end is None else Position(missing.timeline, end))


def _legs(coverage: Coverage, history: TimelineHistory, segment_size: int) -> list[Leg]:
    """Everything that is missing from the newest hole on, in the order of the WAL; empty if nothing is stored."""
    spans = [span for span in history.spans() if span.start != span.end]
    stored = [_stored(coverage, span) for span in spans]
    newest = max((number for number, known in enumerate(stored) if known), default=-1)
    if newest < 0:
        return []
    span, known = spans[newest], stored[newest]
    begin = span.start.segment_start(segment_size)
    before = stored[newest - 1] if newest else ()
    legs = []
    if known[-1].start > begin and len(known) > 1:
        legs.append(Leg(span.timeline, known[-2].end, known[-1].start))
    elif before:
        if before[-1].end < span.start:
            legs.append(Leg(spans[newest - 1].timeline, before[-1].end, span.start))
        if known[-1].start > begin:
            legs.append(Leg(span.timeline, begin, known[-1].start))
    if span.end is None or known[-1].end < span.end:
        legs.append(Leg(span.timeline, known[-1].end, span.end))
    legs += [
        Leg(each.timeline, each.start.segment_start(segment_size), each.end) for each in spans[newest + 1 :]
    ]
    return legs


def _stored(coverage: Coverage, span: Span) -> tuple[Stretch, ...]:
    """What is stored of a timeline, as far as it is on the way."""
    known = coverage.of_timeline(span.timeline)
    if span.end is None:
        return known
    return tuple(Stretch(each.start, min(each.end, span.end)) for each in known if each.start < span.end)
