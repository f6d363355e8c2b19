"""Which backup and which timeline lead to a recovery target, and what can be reached at all.

A position can be restored from a backup if the backup ended at or before it, if the backup lies on the way to
the wanted timeline, and if no byte of WAL is missing between the backup's start and the position.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgproof.errors import PreconditionError
from pgproof.model.lsn import Lsn
from pgproof.model.timelines import Span, TimelineHistory
from pgproof.model.wal_coverage import Coverage, reachable_end

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Base:
    """A backup as a place to start from; `stopped_at` is the time when it ended."""

    backup_id: str
    timeline: int
    start: Lsn
    stop: Lsn
    stopped_at: datetime


@dataclass(frozen=True, slots=True)
class Reach:
    """Every position from `start`, where its first backup ended, to `end` can be restored.

    `bases` are the backups in it, oldest first. `missing` is where WAL goes on behind a hole, None if there
    is no more. `last_time` is the newest commit's, where somebody has looked.
    """

    bases: tuple[Base, ...]
    start: Lsn
    end: Lsn
    missing: Lsn | None = None
    last_time: datetime | None = None

    @property
    def first_time(self) -> datetime:
        return self.bases[0].stopped_at

    def __str__(self) -> str:
        until = f"{self.last_time:%Y-%m-%d %H:%M:%S} UTC" if self.last_time else "its last commit"
        return f"{self.start} to {self.end} ({self.first_time:%Y-%m-%d %H:%M:%S} UTC to {until})"

    def to_json(self) -> dict[str, Any]:
        return {
            "start_lsn": str(self.start),
            "end_lsn": str(self.end),
            "first_time": self.first_time.isoformat(),
            "last_time": self.last_time.isoformat() if self.last_time else None,
            "backups": [base.backup_id for base in self.bases],
        }


def choose_timeline(
    wanted: int | None, histories: Mapping[int, TimelineHistory], bases: Iterable[Base], base: Base | None
) -> TimelineHistory:
    """The timeline to recover along: the wanted one, else the newest that `base`, or any backup, leads to.

    A timeline of which nothing but its number is known has no entry in `histories`.
    """
    if wanted is not None:
        if wanted not in histories:
            raise PreconditionError(
                "the repository does not know this timeline",
                hint=f"it knows: {_listed(map(str, sorted(histories)))}",
                timeline=wanted,
            )
        if base is not None and not histories[wanted].passes(base.timeline, base.stop):
            raise PreconditionError(
                "this timeline branched off before the backup ended",
                hint=f"leave the backup's id out, or take one of the timelines "
                f"{_listed(str(t) for t in sorted(histories) if histories[t].passes(base.timeline, base.stop))}",
                timeline=wanted,
                backup=base.backup_id,
            )
        return histories[wanted]
    starts = [base] if base is not None else list(bases)
    for timeline in sorted(histories, reverse=True):
        if any(histories[timeline].passes(each.timeline, each.stop) for each in starts):
            return histories[timeline]
    raise PreconditionError(
        "no backup leads to any timeline that is known",
        hint="the history files of the newest timelines are missing; `pgproof wal status` tells more",
    )


def refuse_branches(
    histories: Mapping[int, TimelineHistory], history: TimelineHistory, coverage: Coverage, segment_size: int
) -> None:
    """Raises PreconditionError if some timeline is not on the way, or lived on after the way had left it: a
    standby that follows the latest timeline may then follow a clone of its primary."""
    spans = history.spans()
    lived_on = [
        span.timeline
        for span in spans
        if span.end is not None
        and any(
            stretch.end > span.end.segment_start(segment_size) + segment_size
            for stretch in coverage.of_timeline(span.timeline)
        )
    ]
    if lived_on or set(histories) - {span.timeline for span in spans}:
        raise PreconditionError(
            "the repository holds timelines that branched; which one the primary is on is not known",
            hint="name it with --timeline; on the primary: SELECT timeline_id FROM pg_control_checkpoint()",
            timelines=_listed(map(str, sorted(histories))),
        )


def find_reaches(
    bases: Iterable[Base], coverage: Coverage, history: TimelineHistory, segment_size: int
) -> tuple[Reach, ...]:
    """What can be restored along the way to a timeline, oldest first; between each two is a hole."""
    ends: dict[Lsn, list[Base]] = {}
    for base in sorted(bases, key=lambda each: (each.stop, each.start, each.backup_id)):
        if history.passes(base.timeline, base.stop):
            end = reachable_end(coverage, base.start, history, segment_size)
            if end >= base.stop:
                ends.setdefault(end, []).append(base)
    return tuple(
        Reach(tuple(found), found[0].stop, end, _next_wal(coverage, history.spans(), end))
        for end, found in sorted(ends.items())
    )


def _next_wal(coverage: Coverage, spans: Sequence[Span], end: Lsn) -> Lsn | None:
    """Where the WAL on the way goes on behind `end`: then there is a hole before it."""
    found = []
    for span in spans:
        for stretch in coverage.of_timeline(span.timeline):
            first, last = max(stretch.start, span.start), stretch.end
            last = last if span.end is None else min(last, span.end)
            if max(first, end) < last:
                found.append(max(first, end))
    return min(found, default=None)


def choose_bases(reaches: Sequence[Reach], position: Lsn | None) -> list[Base]:
    """The backups from which `position` can be restored, the best first; None means the newest position.

    The best one is the newest, which has the least WAL to replay.
    """
    if position is None:
        return list(reversed(reaches[-1].bases)) if reaches else []
    fitting = [each for each in reaches if each.start <= position <= each.end]
    bases = [base for each in fitting for base in each.bases if base.stop <= position]
    return sorted(bases, key=lambda base: (base.stop, base.start, base.backup_id), reverse=True)


def refuse(
    what: str, reaches: Sequence[Reach], others: Collection[int] = (), **facts: Any
) -> PreconditionError:
    """The error for a target that cannot be reached, saying what can be."""
    ranges = [f"  {each}" for each in reaches[-_SHOWN:]]
    ranges += [
        f"  (WAL is missing from {each.end} to {each.missing})"
        for each in reaches
        if each.missing is not None
    ][-_SHOWN:]
    text = "nothing can be restored along this timeline"
    if ranges:
        text = "what can be restored along this timeline:\n" + "\n".join(ranges)
    if others:
        text += f"\nother timelines: {_listed(map(str, sorted(others)))} (--timeline)"
    return PreconditionError(f"{what}; nothing was written", hint=text, **facts)


def why_unreachable(reaches: Sequence[Reach], position: Lsn) -> str:
    """The reason in a few words, for a position that no backup leads to."""
    if not reaches:
        return "no backup lies on the way to this timeline, or its WAL is missing"
    if position < reaches[0].start:
        return "the target lies before the end of the oldest backup"
    for before, after in itertools.pairwise(reaches):
        if before.end < position < after.start:
            return f"the target lies behind a hole in the WAL that begins at {before.end}"
    if reaches[-1].missing is not None:
        return f"the target lies behind a hole in the WAL that begins at {reaches[-1].end}"
    return "the target lies behind the end of the WAL"


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items) or "none"
