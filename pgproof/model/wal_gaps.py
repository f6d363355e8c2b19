"""The holes on the way to a timeline, and the newest backup that leads past each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pgproof.model.lsn import Lsn
from pgproof.model.timelines import Span, TimelineHistory
from pgproof.model.wal_coverage import Coverage, Stretch
from pgproof.model.wal_legs import Position


@dataclass(frozen=True, slots=True)
class WalGap:
    """WAL that is not stored, or was written with wal_level = `minimal`. While no backup begins behind it (`bridged`),
    nothing newer can be restored."""

    timeline: int
    start: Lsn
    end: Lsn
    bridged: bool
    minimal: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "timeline": self.timeline,
            "start_lsn": str(self.start),
            "end_lsn": str(self.end),
            "bytes": self.end - self.start,
            "bridged": self.bridged,
            "minimal": self.minimal,
        }


def gaps_on_the_way(
    coverage: Coverage, history: TimelineHistory, segment_size: int, backups: Iterable[Position]
) -> tuple[WalGap, ...]:
    """Every hole between the oldest and the newest WAL on the way; `backups` are where backups begin."""
    spans = [span for span in history.spans() if span.start != span.end]
    numbers = [number for number, span in enumerate(spans) if coverage.of_timeline(span.timeline)]
    if not numbers:
        return ()
    begins = [backup for backup in backups if history.passes(backup.timeline, backup.lsn)]
    gaps = []
    for number in range(numbers[0], numbers[-1] + 1):
        span = spans[number]
        for hole in _holes(coverage, span, segment_size, number == numbers[0], number == numbers[-1]):
            bridged = any(backup.lsn.segment_start(segment_size) >= hole.end for backup in begins)
            gaps.append(WalGap(span.timeline, hole.start, hole.end, bridged))
    return tuple(gaps)


def _holes(coverage: Coverage, span: Span, segment_size: int, first: bool, last: bool) -> Iterable[Stretch]:
    known = coverage.of_timeline(span.timeline)
    known = tuple(each for each in known if span.end is None or each.start < span.end)
    edges = [] if first else [Stretch(Lsn(0), span.start.segment_start(segment_size))]
    edges += known
    if not last and span.end is not None:
        edges.append(Stretch(span.end, span.end))
    return [Stretch(a.end, b.start) for a, b in pairwise(edges) if a.end < b.start]
