"""What a replica has written that its primary never had: by a rebuild it is lost, and told before. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgproof.model.lsn import Lsn
from pgproof.model.rebuild_evidence import Directory, Primary, Stored
from pgproof.model.timelines import TimelineHistory


@dataclass(frozen=True, slots=True)
class Tail:
    """WAL of the directory behind the place where the primary's way left its timeline: it is lost by design.

    `archived` tells whether the repository has all of it; None if there is no repository, or the end is not known.
    """

    timeline: int
    start: Lsn
    end: Lsn
    exact: bool
    archived: bool | None = None

    @property
    def nbytes(self) -> int:
        return max(0, self.end - self.start)

    def to_json(self) -> dict[str, Any]:
        return {
            "timeline": self.timeline,
            "start_lsn": str(self.start),
            "end_lsn": str(self.end),
            "bytes": self.nbytes,
            "exact": self.exact,
            "archived": self.archived,
        }

    def __str__(self) -> str:
        more = "" if self.exact else "about "
        kept = {
            True: "; the repository has it",
            False: "; the repository has not all of it",
            None: "",
        }[self.archived]
        return f"{more}{self.nbytes:,} bytes of WAL on timeline {self.timeline} behind {self.start}{kept}"


def loss_of(directory: Directory, primary: Primary, stored: Stored | None) -> Tail | None:
    """As far as the directory tells by itself."""
    if directory.control is None:
        return None
    exact = directory.control.state in ("shut down", "shut down in recovery")
    end = directory.position if exact else max(directory.position, directory.written or Lsn(0))
    return tail_of(directory, primary.history, end, stored, exact=exact)


def tail_of(
    directory: Directory, history: TimelineHistory, end: Lsn, stored: Stored | None, *, exact: bool
) -> Tail | None:
    """What the directory has beyond the primary's way, up to `end`."""
    timeline = directory.timeline
    branch = _parted_at(directory.history, history)
    if branch is None:
        branch = left_at(history, timeline)
    if branch is None or end <= branch:
        return None
    archived, own = None, directory.history
    if stored is not None and exact and (own is None or own.begin <= branch):
        archived = stored.coverage.run_end(timeline, branch) >= end
    return Tail(timeline, branch, end, exact, archived)


def left_at(history: TimelineHistory, timeline: int) -> Lsn | None:
    """Where the way left a timeline; None if it is not on the way, or the way ends with it."""
    return next((each.at for each in history.switches if each.timeline == timeline), None)


def _parted_at(own: TimelineHistory | None, history: TimelineHistory) -> Lsn | None:
    """Where a timeline that is not on the way left it; None if it is on the way, or nothing tells."""
    if own is None:
        return None
    theirs = {each.timeline: each.at for each in history.switches}
    for switch in own.switches:
        if switch.timeline == history.timeline:
            return switch.at
        if switch.timeline not in theirs:
            return None
        if theirs[switch.timeline] != switch.at:
            return min(theirs[switch.timeline], switch.at)
    return None
