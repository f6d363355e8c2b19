"""From the pieces of WAL that are stored to how far recovery can go. A hole is never passed.

PostgreSQL reads WAL by whole segment files, and needs each from its first byte on. Where a timeline was left in
the middle of a segment, the next timeline's file of that segment begins with a copy of the bytes before, and
PostgreSQL asks for the newest timeline's file first (XLogFileReadAnyTLI). The same rules hold here and for what
`wal fetch` hands out, so that what is promised is what is served.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Self

from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.timelines import Span, TimelineHistory


@dataclass(frozen=True, slots=True, order=True)
class Stretch:
    """The bytes from `start` up to, not including, `end`."""

    start: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """A stretch of one timeline that is stored: a segment, or a part of one."""

    timeline: int
    start: Lsn
    end: Lsn


@dataclass(frozen=True)
class Coverage:
    """What is stored of each timeline: disjoint stretches in order, with a hole between each two."""

    stretches: dict[int, tuple[Stretch, ...]]

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Self:
        """Join pieces, in any order and overlapping as they may."""
        joined: dict[int, list[Stretch]] = {}
        for piece in sorted(piece for piece in pieces if piece.start < piece.end):
            known = joined.setdefault(piece.timeline, [])
            if known and piece.start <= known[-1].end:
                known[-1] = Stretch(known[-1].start, max(known[-1].end, piece.end))
            else:
                known.append(Stretch(piece.start, piece.end))
        return cls({timeline: tuple(known) for timeline, known in joined.items()})

    def without(self, timeline: int, hole: Stretch) -> Self:
        """As if these bytes were not there."""
        known = self.of_timeline(timeline)
        before = [Stretch(each.start, min(each.end, hole.start)) for each in known]
        behind = [Stretch(max(each.start, hole.end), each.end) for each in known]
        kept = tuple(sorted({each for each in (*before, *behind) if each.start < each.end}))
        return type(self)({**self.stretches, timeline: kept})

    @property
    def timelines(self) -> list[int]:
        return sorted(self.stretches)

    def of_timeline(self, timeline: int) -> tuple[Stretch, ...]:
        return self.stretches.get(timeline, ())

    def gaps(self, timeline: int) -> tuple[Stretch, ...]:
        """The holes between what is stored of a timeline."""
        return tuple(Stretch(a.end, b.start) for a, b in pairwise(self.of_timeline(timeline)))

    def run_end(self, timeline: int, at: Lsn) -> Lsn:
        """The end of what is stored without a hole from the byte at `at` on; `at` if that byte is missing."""
        known = self.of_timeline(timeline)
        number = bisect_right(known, at, key=lambda stretch: stretch.start) - 1
        return max(at, known[number].end) if number >= 0 else at


def served_end(coverage: Coverage, segment: WalSegment, begin: Lsn) -> Lsn | None:
    """How far the bytes of a segment reach that can be handed to PostgreSQL; None if there is no such file.

    `begin` is where the segment's timeline begins. A file that does not reach beyond it holds nothing of its own
    timeline, and would keep PostgreSQL from the older timeline's file, which may hold more.
    """
    end = min(coverage.run_end(segment.timeline, segment.start), segment.end)
    return end if segment.start < end and begin < end else None


def reachable_end(coverage: Coverage, start: Lsn, history: TimelineHistory, segment_size: int) -> Lsn:
    """How far replay can go from `start` along the way to a timeline; `start` if not a single byte."""
    spans, position = history.spans(), start
    while True:
        end = _next_end(coverage, position, spans, segment_size)
        if end <= position:
            return position
        position = end
        if position.value % segment_size:
            return position


def _next_end(coverage: Coverage, position: Lsn, spans: tuple[Span, ...], segment_size: int) -> Lsn:
    """The end of the run of segments, or of the single one, that PostgreSQL would read next."""
    number = position.value // segment_size
    candidates = [span for span in spans if span.start.value // segment_size <= number]
    for span in reversed(candidates):
        segment = WalSegment(span.timeline, number, segment_size)
        end = served_end(coverage, segment, span.start)
        if end is None:
            continue
        if end == segment.end:
            # As long as no newer timeline begins, the same timeline's files are asked for.
            end = coverage.run_end(span.timeline, segment.start)
        limits = [end, *([span.end] if span.end is not None else [])]
        newer = [other.start.segment_start(segment_size) for other in spans if other not in candidates]
        return min(limits + newer)
    return position


@dataclass(frozen=True, slots=True)
class Promise:
    """A recovery that was planned: along which path, and up to where there is WAL for it."""

    history: TimelineHistory
    end: Lsn


class Verdict(StrEnum):
    """What becomes of PostgreSQL's wish for a segment. Only `ABSENT` may be told as the end of the WAL."""

    SERVED = "served"
    ABSENT = "absent"
    HOLE = "hole"


def judge(coverage: Coverage, segment: WalSegment, begin: Lsn, promise: Promise | None) -> Verdict:
    """Whether a segment can be handed out, is the end of the WAL, or is a hole, which PostgreSQL would take
    for the end and promote a cluster that lacks what lies behind.

    `coverage` tells what is stored of the segment's timeline from this segment on.
    """
    end = served_end(coverage, segment, begin)
    reaches = end if end is not None else segment.start
    span = (
        next((s for s in promise.history.spans() if s.timeline == segment.timeline), None)
        if promise
        else None
    )
    if promise is not None and span is not None:
        wanted = min(promise.end, segment.end, *([span.end] if span.end is not None else []))
        broken = max(reaches, span.start) < wanted
    else:
        known = coverage.of_timeline(segment.timeline)
        broken = reaches < segment.end and bool(known) and known[-1].end > max(reaches, begin)
    if broken:
        return Verdict.HOLE
    return Verdict.ABSENT if end is None else Verdict.SERVED
