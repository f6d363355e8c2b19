"""The state of a cluster's WAL: how far it is stored, what the primary keeps for us, what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
            "seconds_to_disk_full": self.seconds_to_full,
            "seconds_to_slot_lost": self.seconds_to_lost,
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


def problems_of(status: WalStatus, limits: WalLimits) -> tuple[Problem, ...]:
    """What is wrong, the worst first."""
    return (*_in_the_repository(status), *_at_the_server(status, limits))


def _in_the_repository(status: WalStatus) -> Iterator[Problem]:
    for gap in status.gaps:
        if not gap.bridged:
            yield Problem(
                "gap",
                f"the WAL of timeline {gap.timeline} is missing from {gap.start} to {gap.end}, and no backup begins "
                "behind it: nothing newer can be restored",
                "take a full backup now: pgproof create --type full",
            )
    if status.restorable is None:
        yield Problem(
            "no-backup",
            "there is no backup from which the stored WAL could be replayed",
            "take one: pgproof create --type full",
        )


def _at_the_server(status: WalStatus, limits: WalLimits) -> Iterator[Problem]:
    primary = status.primary
    if primary is None:
        yield Problem("server", f"the server was not asked: {status.server_problem}", "mend the connection")
        return
    yield from _about_the_slot(primary)
    if primary.lag_bytes is None:
        yield Problem(
            "nothing-stored",
            f"nothing is stored of the server's timeline {primary.timeline}",
            "start pgproof wal stream, or see its log",
        )
    elif primary.lag_bytes > limits.lag_bytes:
        yield Problem(
            "lag",
            f"{primary.lag_bytes / 1e6:,.1f} MB of the server's WAL are not in the repository yet",
            "see the streamer's log; a slow store or network holds it up",
        )
    elif primary.lag_seconds is not None and primary.lag_seconds > limits.lag_seconds:
        yield Problem(
            "lag",
            f"the repository is {primary.lag_seconds:,.0f} s behind the server",
            "see whether the streamer runs and its log",
        )
    full = primary.seconds_to_full
    streaming = primary.slot is not None and primary.slot.active
    if full is not None and not streaming and full < 3600 * limits.hours_to_full:
        yield Problem(
            "disk-full",
            f"the server's WAL disk is full in about {full / 3600:.1f} h if nothing is streamed",
            "start the streamer, or drop the slot and take a full backup afterwards",
        )


def _about_the_slot(primary: PrimaryStatus) -> Iterator[Problem]:
    slot = primary.slot
    if slot is None:
        yield Problem(
            "slot-missing",
            f"the server has no replication slot {primary.slot_name}: it removes WAL that is not stored yet",
            "run pgproof wal stream --create-slot",
        )
        return
    if slot.lost:
        reason = slot.invalidation_reason or "wal_removed"
        yield Problem(
            "slot-lost",
            f"the server has given the replication slot {slot.name} up ({reason}): WAL may be missing for ever",
            "run pgproof wal stream --create-slot, and take a full backup",
        )
        return
    if slot.wal_status == "unreserved" or (slot.limit_used or 0.0) > 0.5:
        used = "" if slot.limit_used is None else f", {100 * slot.limit_used:.0f} % of its limit is used"
        yield Problem(
            "slot-in-danger",
            f"the server will soon give the replication slot {slot.name} up (wal_status {slot.wal_status}{used})",
            "see why the streamer is behind, or raise max_slot_wal_keep_size meanwhile",
        )
    if not slot.active:
        since = f" since {slot.inactive_since}" if slot.inactive_since else ""
        yield Problem(
            "not-streaming",
            f"nobody streams from the replication slot {slot.name}{since}",
            "start pgproof wal stream",
        )


def _until(nbytes: int | None, rate: float | None) -> float | None:
    return None if nbytes is None or not rate else max(0.0, nbytes / rate)
