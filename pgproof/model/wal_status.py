"""The state of a cluster's WAL: how far it is stored, what the primary keeps for us, what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgproof.model.lsn import Lsn
from pgproof.model.wal_coverage import Stretch
from pgproof.model.wal_gaps import WalGap

_RATE_WINDOW = timedelta(hours=1)
_SHORTEST_WINDOW = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class WalLimits:
    """What counts as a problem."""

    lag_bytes: int = 256 << 20
    lag_seconds: float = 60.0
    hours_to_full: float = 24.0


@dataclass(frozen=True, slots=True)
class TimelineStatus:
    """What is stored of one timeline; `parent` and `begin` say where it branched off."""

    timeline: int
    parent: int | None
    begin: Lsn | None
    stretches: tuple[Stretch, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "timeline": self.timeline,
            "parent": self.parent,
            "begin_lsn": None if self.begin is None else str(self.begin),
            "ranges": [{"start_lsn": str(s.start), "end_lsn": str(s.end)} for s in self.stretches],
        }


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A physical slot as the server shows it; what a version does not tell is None."""

    name: str
    active: bool
    restart: Lsn | None
    wal_status: str | None
    safe_bytes: int | None
    retained_bytes: int | None
    inactive_since: str | None
    invalidation_reason: str | None

    @property
    def lost(self) -> bool:
        return self.wal_status == "lost" or self.invalidation_reason is not None

    @property
    def limit_used(self) -> float | None:
        """Which part of max_slot_wal_keep_size is taken; None without a limit."""
        if self.safe_bytes is None or self.retained_bytes is None:
            return None
        whole = self.safe_bytes + self.retained_bytes
        return self.retained_bytes / whole if whole > 0 else 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "active": self.active,
            "restart_lsn": None if self.restart is None else str(self.restart),
            "wal_status": self.wal_status,
            "safe_wal_size": self.safe_bytes,
            "retained_bytes": self.retained_bytes,
            "inactive_since": self.inactive_since,
            "invalidation_reason": self.invalidation_reason,
        }


@dataclass(frozen=True, slots=True)
class PrimaryStatus:
    """The server's side: where its WAL ends, and how far behind the repository is."""

    version: str
    timeline: int
    position: Lsn
    in_recovery: bool
    slot_name: str
    slot: SlotStatus | None
    sync_state: str | None
    lag_bytes: int | None
    lag_seconds: float | None
    bytes_per_second: float | None
    free_bytes: int | None
    full_page_writes: bool = True

    @property
    def seconds_to_full(self) -> float | None:
        """Until the disk with the WAL is full if nothing is streamed any more."""
        return _until(self.free_bytes, self.bytes_per_second)

    @property
    def seconds_to_lost(self) -> float | None:
        """Until the server gives the slot up if nothing is streamed any more."""
        return _until(None if self.slot is None else self.slot.safe_bytes, self.bytes_per_second)

    def to_json(self) -> dict[str, Any]:
        return {
            "server_version": self.version,
            "timeline": self.timeline,
            "lsn": str(self.position),
            "in_recovery": self.in_recovery,
            "slot": None if self.slot is None else self.slot.to_json(),
            "sync_state": self.sync_state,
            "lag_bytes": self.lag_bytes,
            "lag_seconds": self.lag_seconds,
            "wal_bytes_per_second": self.bytes_per_second,
            "free_bytes": self.free_bytes,
            "full_page_writes": self.full_page_writes,
            "seconds_to_disk_full": self.seconds_to_full,
            "seconds_to_slot_lost": self.seconds_to_lost,
        }


@dataclass(frozen=True, slots=True)
class StandbyStatus:
    """Our slot on a standby; `behind_bytes` is what is stored already and still kept there. `problem` is why nothing is
    known of it."""

    server: str
    slot: SlotStatus | None
    behind_bytes: int | None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "slot": None if self.slot is None else self.slot.to_json(),
            "behind_bytes": self.behind_bytes,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Restorable:
    """From which moment to which the cluster can be restored, along one timeline."""

    timeline: int
    oldest_lsn: Lsn
    oldest: datetime
    newest_lsn: Lsn
    newest: datetime

    def to_json(self) -> dict[str, Any]:
        return {
            "timeline": self.timeline,
            "oldest_lsn": str(self.oldest_lsn),
            "oldest": self.oldest.isoformat(),
            "newest_lsn": str(self.newest_lsn),
            "newest": self.newest.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that somebody has to do something about; `kind` is one word for programs."""

    kind: str
    message: str
    hint: str

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "message": self.message, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class WalStatus:
    """Everything together; `server_problem` is why nothing is known of the server."""

    cluster: str
    at: datetime
    timelines: tuple[TimelineStatus, ...]
    gaps: tuple[WalGap, ...]
    restorable: Restorable | None
    primary: PrimaryStatus | None
    server_problem: str
    standbys: tuple[StandbyStatus, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "at": self.at.isoformat(),
            "ok": self.ok,
            "timelines": [each.to_json() for each in self.timelines],
            "gaps": [gap.to_json() for gap in self.gaps],
            "restorable": None if self.restorable is None else self.restorable.to_json(),
            "primary": None if self.primary is None else self.primary.to_json(),
            "standbys": [each.to_json() for each in self.standbys],
            "problems": [problem.to_json() for problem in self.problems],
        }


def wal_rate(stored: Sequence[tuple[datetime, Lsn]]) -> float | None:
    """Bytes of WAL a second over the last hour in which any was stored: when, and up to where, pieces of one
    timeline were stored."""
    if not stored:
        return None
    newest = max(stored)
    window = [each for each in stored if each[0] >= newest[0] - _RATE_WINDOW]
    oldest = min(window)
    if newest[0] - oldest[0] < _SHORTEST_WINDOW:
        return None
    highest = max(end for _at, end in window)
    return (highest - oldest[1]) / (newest[0] - oldest[0]).total_seconds()


def _until(nbytes: int | None, rate: float | None) -> float | None:
    return None if nbytes is None or not rate else max(0.0, nbytes / rate)
