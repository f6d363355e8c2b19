"""Which stretches of time a cluster can be restored to, by its backups and the WAL behind them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from pgproof.model.lsn import Lsn
from pgproof.model.manifest import PHYSICAL
from pgproof.model.report import BackupInfo
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_coverage import Coverage, Piece, reachable_end
from pgproof.model.wal_status import Restorable

_NOWHERE = Lsn(0)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def restorable_windows(
    backups: Iterable[BackupInfo],
    coverage: Coverage,
    histories: Mapping[int, TimelineHistory],
    segment_size: int,
    stored: Sequence[tuple[Piece, datetime]],
) -> tuple[Restorable, ...]:
    """Every stretch without a hole, oldest first; one of no length is the end of a backup that has no WAL behind it.

    `histories` has the way to every timeline, `stored` tells when each piece of WAL came. Each backup counts on the newest
    timeline that it leads to; one that failed its verification does not count.
    """
    ways = sorted(histories.values(), key=lambda way: way.timeline, reverse=True)
    by_way: dict[int, list[BackupInfo]] = {}
    for backup in backups:
        if backup.method != PHYSICAL or (backup.verified is not None and not backup.verified.ok):
            continue
        way = next((way for way in ways if way.passes(backup.timeline, backup.stop_lsn)), None)
        if way is not None:
            by_way.setdefault(way.timeline, []).append(backup)
    found = [
        window
        for timeline, usable in by_way.items()
        for window in _along(usable, coverage, histories[timeline], segment_size, stored)
    ]
    return tuple(sorted(found, key=lambda window: (window.oldest, window.timeline)))


def _along(
    backups: list[BackupInfo],
    coverage: Coverage,
    way: TimelineHistory,
    segment_size: int,
    stored: Sequence[tuple[Piece, datetime]],
) -> list[Restorable]:
    runs: list[tuple[BackupInfo, BackupInfo, Lsn]] = []
    reached = _NOWHERE
    for backup in sorted(backups, key=lambda each: each.stop_lsn):
        if backup.stop_lsn > reached:
            # Whoever begins on a way that was walked already comes no further than it.
            reached = reachable_end(coverage, backup.start_lsn, way, segment_size)
        end = max(backup.stop_lsn, reached)
        if runs and backup.stop_lsn <= runs[-1][2]:
            oldest, _newest, before = runs.pop()
            runs.append((oldest, backup, max(before, end)))
        else:
            runs.append((backup, backup, end))
    # What is copied to another place gets a later time there; but what lies behind is later still.
    limits = [*(oldest.finished_at for oldest, _newest, _end in runs[1:]), _LAST]
    return [
        Restorable(
            way.timeline,
            oldest.stop_lsn,
            oldest.finished_at,
            end,
            max(newest.finished_at, min(limit, _stored_at(end, way, stored))),
        )
        for (oldest, newest, end), limit in zip(runs, limits, strict=True)
    ]


def _stored_at(end: Lsn, way: TimelineHistory, stored: Sequence[tuple[Piece, datetime]]) -> datetime:
    """When the last byte of what can be replayed came; long ago if none was needed."""
    timeline, byte = way.timeline_at(end), end.value
    brought = (
        at
        for piece, at in stored
        if piece.start.value < byte <= piece.end.value and piece.timeline == timeline
    )
    return max(brought, default=_FIRST)
