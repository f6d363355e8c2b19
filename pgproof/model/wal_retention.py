"""Which stored WAL is needed: what each kept backup needs itself, and all from where the recovery window begins. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pgproof.model.lsn import Lsn
from pgproof.model.timelines import TimelineHistory

# WAL is dated by the store, backups by whichever clock makes them youngest.
_SLACK = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class WalBase:
    """A physical backup as a beginning for recovery; `at` is when it was taken, by the clock that makes it youngest."""

    backup_id: str
    timeline: int
    start: Lsn
    stop: Lsn
    at: datetime
    good: bool = True


@dataclass(frozen=True)
class NeededWal:
    """Segments by their number on each timeline: from the first to the last, or to no end; in order, with room between."""

    ranges: Mapping[int, Sequence[tuple[int, int | None]]] = field(default_factory=dict)
    everything: bool = False

    def __contains__(self, segment: tuple[int, int]) -> bool:
        """Whether the segment of this timeline and number is needed."""
        timeline, number = segment
        known = self.ranges.get(timeline, ())
        at = bisect_right(known, number, key=lambda each: each[0]) - 1
        last = known[at][1] if at >= 0 else -1
        return self.everything or last is None or number <= last


def window_bases(
    bases: Sequence[WalBase],
    histories: Mapping[int, TimelineHistory],
    newest_wal: Mapping[int, datetime],
    window: datetime,
) -> dict[int, WalBase | None]:
    """For each timeline whose WAL reaches into the window, the backup that recovery along it begins with.

    `newest_wal` is when the newest WAL of a timeline was stored, `window` when the window begins. None is a timeline
    that no good backup leads to.
    """
    found: dict[int, WalBase | None] = {}
    newest = max((each for each in bases if each.good), key=lambda each: each.backup_id, default=None)
    for timeline, at in newest_wal.items():
        history = histories.get(timeline, TimelineHistory(timeline))
        # What follows the newest backup is always of the window, whatever the clocks say.
        leads_on = newest is not None and history.passes(newest.timeline, newest.stop)
        if at < window - _SLACK and not leads_on:
            continue
        on_the_way = [each for each in bases if each.good and history.passes(each.timeline, each.stop)]
        on_the_way.sort(key=lambda each: each.backup_id)
        before = [each for each in on_the_way if each.at <= window]
        found[timeline] = before[-1] if before else on_the_way[0] if on_the_way else None
    return found


def needed_wal(
    kept: Collection[WalBase],
    window: Mapping[int, WalBase | None],
    histories: Mapping[int, TimelineHistory],
    segment_size: int,
) -> NeededWal:
    """`kept` are the physical backups that stay, `window` what `window_bases` has found.

    Without any backup everything is needed: the first one may be on its way.
    """
    if not kept:
        return NeededWal(everything=True)
    ranges: dict[int, list[tuple[int, int | None]]] = {}
    for base in kept:
        last = max(base.start.value, base.stop.value - 1) // segment_size
        ranges.setdefault(base.timeline, []).append((base.start.value // segment_size, last))
    for timeline, begin in window.items():
        first = 0 if begin is None else begin.start.value // segment_size
        for span in histories.get(timeline, TimelineHistory(timeline)).spans():
            # Also the segment in which the next timeline begins, of both.
            start = max(first, span.start.value // segment_size)
            end = None if span.end is None else span.end.value // segment_size
            if end is None or start <= end:
                ranges.setdefault(span.timeline, []).append((start, end))
    return NeededWal({timeline: _joined(found) for timeline, found in ranges.items()})


def _joined(ranges: Iterable[tuple[int, int | None]]) -> list[tuple[int, int | None]]:
    """Ten thousand backups share most of their WAL: neighbours become one."""
    joined: list[tuple[int, int | None]] = []
    for first, last in sorted(ranges, key=lambda each: each[0]):
        if joined and (joined[-1][1] is None or first <= joined[-1][1] + 1):
            end = joined[-1][1]
            joined[-1] = joined[-1][0], None if end is None or last is None else max(end, last)
        else:
            joined.append((first, last))
    return joined
