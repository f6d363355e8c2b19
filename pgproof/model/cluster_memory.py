"""What stays true of a cluster once it was seen, and what that tells of positions on earlier timelines. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.replication_config import PRIMARY
from pgproof.model.timelines import TimelineHistory


@dataclass(frozen=True, slots=True)
class Memory:
    """What stays true once it was seen: the system, the highest timeline (`floor`), where the timelines on the way to it were
    left (`left`, `whole` if that is all of them), and the node and timeline that were written to.
    """

    system_identifier: int | None = None
    floor: int = 0
    left: Mapping[int, Lsn] = field(default_factory=dict)
    whole: bool = False
    written: tuple[str, int] | None = None

    def after(self, states: Sequence[NodeState]) -> Memory:
        """With what these nodes said."""
        system = self.system_identifier or _system_of(states)
        floor = max((each.timeline for each in states if each.system_identifier == system), default=0)
        memory = replace(self, system_identifier=system)
        return memory if floor <= self.floor else replace(memory, floor=floor, left={}, whole=floor == 1)

    def promoted(self, before: NodeState, after: NodeState) -> Memory:
        """With a promotion that we watched over one connection, so that it was no restart: it says where its timeline begins.

        Nothing is learnt from one that skipped a timeline: where that was left is not known then.
        """
        timeline = before.timeline
        begins = after.branched_at
        ours = after.system_identifier == self.system_identifier and after.timeline >= self.floor
        if begins is None or not ours or after.timeline != timeline + 1:
            return self
        known = self.left if timeline == self.floor or after.timeline == self.floor else {}
        whole = timeline == 1 or (self.whole and timeline == self.floor)
        return replace(self, floor=after.timeline, left={**known, timeline: begins}, whole=whole)

    def read(self, history: TimelineHistory) -> Memory:
        """With the history of the primary's timeline."""
        if history.timeline != self.floor:
            return self
        return replace(self, left={each.timeline: each.at for each in history.switches}, whole=True)


class Standing(StrEnum):
    """What became of a position on a timeline, seen from another timeline."""

    KEPT = "kept"
    LOST = "lost"
    UNKNOWN = "unknown"
    AHEAD = "ahead"


def standing(timeline: int, lsn: Lsn, memory: Memory) -> Standing:
    """Whether what was written up to `lsn` of `timeline` is in the history of the highest timeline; AHEAD: that was not seen
    yet.
    """
    if timeline == memory.floor:
        return Standing.KEPT
    if timeline > memory.floor:
        return Standing.AHEAD
    left = memory.left.get(timeline)
    if left is None:
        return Standing.LOST if memory.whole else Standing.UNKNOWN
    return Standing.KEPT if lsn <= left else Standing.LOST


def has_replayed(state: NodeState, reached: Lsn, timeline: int, lsn: Lsn, memory: Memory) -> bool:
    """Whether a node of the primary's history shows what was written up to `lsn` of `timeline`."""
    if state.timeline < timeline or reached < lsn:
        return False
    return state.timeline == timeline or standing(timeline, lsn, memory) is Standing.KEPT


def _system_of(states: Sequence[NodeState]) -> int | None:
    """The configured primary's; while that is away, the one on which all others agree."""
    for each in states:
        if each.node == PRIMARY:
            return each.system_identifier
    found = {each.system_identifier for each in states}
    return found.pop() if len(found) == 1 else None
