"""What one server of a replicated cluster said of itself at one moment. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgproof.model.lsn import Lsn

_PAGE = 8192
_SHORT_HEADER, _LONG_HEADER = 24, 40


@dataclass(frozen=True, slots=True)
class NodeState:
    """A measurement of one node.

    `position` is how far it has written (a primary) or received (a standby), `replayed` how far a standby has replayed;
    of a primary how far its last recovery went: a promotion's if it was not restarted since, a crash's if it was.
    `replayed_age` is how old the last replayed transaction is by the node's own clock, in seconds, and `apply_delay` how long
    it waits on purpose before it replays. `read_only` says that transactions are read-only by setting, which some use as a
    fence. `seconds` is how long the answer took.
    """

    node: str
    at: datetime
    in_recovery: bool
    system_identifier: int
    timeline: int
    version: int
    segment_size: int
    position: Lsn | None
    replayed: Lsn | None
    replay_paused: bool = False
    replayed_age: float | None = None
    receiver: str = ""
    apply_delay: float = 0.0
    read_only: bool = False
    seconds: float = 0.0

    @property
    def primary(self) -> bool:
        return not self.in_recovery

    @property
    def branched_at(self) -> Lsn | None:
        """Where its timeline begins, if it was promoted and did not crash since, which it does not tell: after a crash this is
        where the crash had cut the WAL off. Sure is what was watched over one connection, or its timeline's history file.
        """
        return None if self.in_recovery else self.replayed

    @property
    def reached(self) -> Lsn:
        """What a read on this node sees: everything up to here."""
        found = self.replayed if self.in_recovery else self.position
        return found or Lsn(0)

    @property
    def held(self) -> Lsn:
        """What would survive if only this node did: received and not yet replayed counts."""
        return max(self.position or Lsn(0), self.replayed or Lsn(0))

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "at": self.at.isoformat(),
            "role": "standby" if self.in_recovery else "primary",
            "system_identifier": str(self.system_identifier),
            "timeline": self.timeline,
            "server_version": self.version,
            "position_lsn": None if self.position is None else str(self.position),
            "replay_lsn": None if self.replayed is None else str(self.replayed),
            "replay_paused": self.replay_paused,
            "receiver": self.receiver or None,
            "apply_delay_seconds": self.apply_delay,
            "read_only": self.read_only,
            "latency_seconds": round(self.seconds, 6),
        }


def record_end(lsn: Lsn, segment_size: int) -> Lsn:
    """Where the record before `lsn` ends, in the way that replay reports it.

    A primary that stands at the start of a page names the first byte behind its header, a standby that has
    replayed as much names the page itself. A page's header is 24 bytes long, the first of a segment 40 (PostgreSQL
    source, xlog_internal.h).
    """
    within = lsn.value % segment_size
    if within == _LONG_HEADER:
        return Lsn(lsn.value - _LONG_HEADER)
    if within >= _PAGE and within % _PAGE == _SHORT_HEADER:
        return Lsn(lsn.value - _SHORT_HEADER)
    return lsn
