"""How a replica is made one again: what is known of its directory, its primary and the repository, and what follows. Pure.

PostgreSQL follows a primary only from a position on that primary's own way. A directory that is on it needs nothing but
WAL; one that wrote on behind the place where the way left its timeline is rewound, if pg_rewind's rules allow it, or
restored from the repository.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.control_file import ControlFile
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_coverage import Coverage, reachable_end

STANDBY_STATES = ("shut down in recovery", "in archive recovery")


class Way(StrEnum):
    """NOTHING: it streams. START: its files are good, they are led to the primary. REWIND and RESTORE overwrite them."""

    NOTHING = "nothing"
    START = "start"
    REWIND = "rewind"
    RESTORE = "restore"


class Stage(StrEnum):
    """How far an earlier rebuild got that was broken off."""

    NONE = ""
    REWINDING = "rewinding"
    RESTORING = "restoring"
    READY = "ready"


class Source(StrEnum):
    """What somebody may ask for instead of what is found best."""

    REWIND = "rewind"
    REPOSITORY = "repository"


@dataclass(frozen=True, slots=True)
class Directory:
    """What lies in the data directory. `control` is None where there is no cluster (yet, or any more).

    `stoppable` says that the running server is one that we can stop. `history` is what the directory itself knows of its
    timeline. `fixed` says why the directory cannot be moved aside for a rewind; empty if it can. `written` is where its WAL
    ends, to a page. `replayed` is what a running standby says of itself, which its files tell only when it has ended.
    """

    path: Path
    control: ControlFile | None = None
    running: bool = False
    stoppable: bool = True
    history: TimelineHistory | None = None
    tablespaces: int = 0
    stage: Stage = Stage.NONE
    fixed: str = ""
    written: Lsn | None = None
    replayed: Lsn | None = None

    @property
    def was_standby(self) -> bool:
        return self.control is not None and self.control.state in STANDBY_STATES

    @property
    def timeline(self) -> int:
        control = self.control
        assert control is not None
        return max(control.timeline, control.min_recovery_timeline) if self.was_standby else control.timeline

    @property
    def position(self) -> Lsn:
        """How far its files are known to be: of a server that crashed as a primary only the last checkpoint is."""
        control = self.control
        assert control is not None
        return (
            max(control.min_recovery_point, control.redo_lsn) if self.was_standby else control.checkpoint_lsn
        )


@dataclass(frozen=True, slots=True)
class Primary:
    """The server to follow. `oldest_wal` is where the WAL begins that it still has, `cannot_rewind` why it cannot be a
    source of pg_rewind."""

    name: str
    state: NodeState
    history: TimelineHistory
    oldest_wal: Lsn | None
    cannot_rewind: tuple[str, ...] = ()
    tablespaces: int = 0

    @property
    def position(self) -> Lsn:
        return self.state.position or Lsn(0)


@dataclass(frozen=True, slots=True)
class StoredBackup:
    """A physical backup of the repository."""

    backup_id: str
    timeline: int
    stop: Lsn


@dataclass(frozen=True, slots=True)
class Stored:
    """What the repository has of this cluster, `backups` with the newest first."""

    backups: tuple[StoredBackup, ...]
    coverage: Coverage
    timelines: frozenset[int]


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


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """`reasons` say why this way. `backup_id` is what is restored, also where a rewind should fail, None if there is none."""

    node: str
    primary: str
    data_dir: Path
    way: Way
    reasons: tuple[str, ...]
    slot: str
    stops: bool = False
    backup_id: str | None = None
    timeline: int | None = None
    tail: Tail | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def changes(self) -> bool:
        return self.way is not Way.NOTHING

    @property
    def overwrites(self) -> bool:
        return self.way in (Way.REWIND, Way.RESTORE)

    def refuse_another(self, found: RebuildPlan) -> None:
        """Raises ConflictError if `found` is not what somebody has agreed to with this plan.

        What overwrites less than that needs no other agreement.
        """
        if found.primary != self.primary or (found.overwrites and found.way is not self.way):
            raise ConflictError(
                "what is found now is not what was agreed to; no file was changed",
                hint="look at the plan again",
                agreed=f"{self.way}, following {self.primary}",
                found=f"{found.way}, following {found.primary}",
            )

    def lines(self) -> list[str]:
        """The plan for people, a fact per line."""
        does = {
            Way.NOTHING: "nothing: it streams",
            Way.START: "its files stay; it is led to the primary and started",
            Way.REWIND: "its files are rewound to the primary's (pg_rewind)",
            Way.RESTORE: f"its files are replaced by those of backup {self.backup_id}",
        }[self.way]
        text = [
            f"replica           {self.node}, {self.data_dir}",
            f"follows           {self.primary}",
            f"way               {does}",
            *(f"because           {reason}" for reason in self.reasons),
        ]
        if self.way is Way.NOTHING:
            return text
        text.append(f"slot              {self.slot}")
        if self.stops:
            text.append("server            it runs, and is stopped first")
        if self.way is Way.REWIND and self.backup_id:
            text.append(f"if that fails     backup {self.backup_id} is restored")
        if self.tail is not None:
            text.append(f"lost              {self.tail}")
        return text + [f"note              {note}" for note in self.notes]

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "primary": self.primary,
            "data_dir": str(self.data_dir),
            "way": str(self.way),
            "reasons": list(self.reasons),
            "slot": self.slot,
            "stops_server": self.stops,
            "backup_id": self.backup_id,
            "lost": self.tail.to_json() if self.tail else None,
            "notes": list(self.notes),
        }


class _NoBackup(Exception):
    def __init__(self, reasons: tuple[str, ...]) -> None:
        self.reasons = reasons


def plan_rebuild(
    node: str,
    directory: Directory,
    primary: Primary,
    stored: Stored | None,
    *,
    slot: str,
    streams: bool = False,
    source: Source | None = None,
    can_stop: bool = False,
    why_not_stored: str = "",
) -> RebuildPlan:
    """Choose the way. `streams` says that the primary itself sees the replica streaming, `can_stop` that there is a command
    that stops its server, `why_not_stored` why `stored` is None although a repository is configured.

    Raises PreconditionError where the directory is another cluster's, where nothing leads from it to the primary, and for
    what is not done here (tablespaces, a server that nobody can stop).
    """
    refuse_directory(directory, primary)
    if streams and source is None:
        return RebuildPlan(
            node, primary.name, directory.path, Way.NOTHING, ("the primary sees it streaming",), slot
        )
    if directory.running and not directory.stoppable and not can_stop:
        raise PreconditionError(
            "a server uses this directory, and it is none that can be stopped from here",
            hint="stop it yourself, or give --stop-command and --start-command",
            path=directory.path,
        )
    backup = _backup(primary, stored)
    try:
        way, reasons = _choose(directory, primary, stored, backup, source)
    except _NoBackup as error:
        what = why_not_stored or (
            "no repository is configured"
            if stored is None
            else "no backup of the repository leads to the primary"
        )
        raise PreconditionError(
            f"the replica has to be restored, and {what}",
            hint=f"{'; '.join(error.reasons)}. Take a backup of the primary with `pgproof create`, then run this again",
        ) from None
    known = stored is not None and primary.state.timeline in stored.timelines
    return RebuildPlan(
        node,
        primary.name,
        directory.path,
        way,
        reasons,
        slot,
        stops=directory.running,
        backup_id=backup.backup_id if backup and way in (Way.REWIND, Way.RESTORE) else None,
        timeline=primary.state.timeline if known else None,
        tail=_tail(directory, primary, stored) if way in (Way.REWIND, Way.RESTORE) else None,
    )


def refuse_directory(directory: Directory, primary: Primary) -> None:
    """Raises PreconditionError for what must not be touched, or cannot be done here."""
    control = directory.control
    if control is not None and control.system_identifier != primary.state.system_identifier:
        raise PreconditionError(
            "the directory holds another cluster; nothing was changed",
            hint="look at --data-dir again",
            path=directory.path,
            found=control.system_identifier,
            wanted=primary.state.system_identifier,
        )
    if directory.tablespaces or primary.tablespaces:
        raise PreconditionError(
            "the cluster has tablespaces, which a rebuild does not move",
            hint="use `pgproof restore latest --standby --delta` with --tablespace OLD=NEW",
            path=directory.path,
        )


def tail_of(
    directory: Directory, history: TimelineHistory, end: Lsn, stored: Stored | None, *, exact: bool
) -> Tail | None:
    """What the directory has beyond the primary's way, up to `end`."""
    timeline = directory.timeline
    branch = _left_at(history, timeline)
    if branch is None or end <= branch:
        return None
    archived = None
    if stored is not None and exact:
        archived = stored.coverage.run_end(timeline, branch) >= end
    return Tail(timeline, branch, end, exact, archived)


def _tail(directory: Directory, primary: Primary, stored: Stored | None) -> Tail | None:
    if directory.control is None:
        return None
    exact = directory.control.state in ("shut down", "shut down in recovery")
    end = directory.position if exact else max(directory.position, directory.written or Lsn(0))
    return tail_of(directory, primary.history, end, stored, exact=exact)


def primary_among(states: Iterable[NodeState], system_identifier: int | None) -> NodeState:
    """The one server of the cluster to follow: out of recovery, on the highest timeline.

    Raises PreconditionError if there is none, or if more than one claims to be it.
    """
    found = sorted(
        (each for each in states if each.primary and system_identifier in (None, each.system_identifier)),
        key=lambda each: each.timeline,
    )
    if not found:
        raise PreconditionError(
            "no primary of this cluster answers",
            hint="start it, or correct where it is looked for: --host, READ_REPLICA_HOSTS; `pgproof replicas status` shows all",
            system_identifier=system_identifier,
        )
    if len(found) > 1 and found[-2].timeline == found[-1].timeline:
        raise PreconditionError(
            "two servers claim to be the primary on the same timeline",
            hint="stop the one that is wrong; nothing tells from here which that is",
            servers=f"{found[-2].node}, {found[-1].node}",
        )
    return found[-1]


def _choose(
    directory: Directory,
    primary: Primary,
    stored: Stored | None,
    backup: StoredBackup | None,
    source: Source | None,
) -> tuple[Way, tuple[str, ...]]:
    if directory.stage is Stage.READY and source is None:
        return Way.START, ("an earlier rebuild had made its files ready",)
    if directory.control is None:
        why = "there is no cluster in the directory"
        if directory.stage is Stage.RESTORING:
            why = "a restore into the directory was broken off"
        if source is Source.REWIND:
            raise PreconditionError(
                f"{why}, so there is nothing to rewind", hint="leave --from out", path=directory.path
            )
        return _restore(backup, (why,))
    if source is Source.REPOSITORY:
        return _restore(backup, ("this was asked for",))
    obstacles = _obstacles(directory, primary)
    if source is Source.REWIND:
        if obstacles:
            raise PreconditionError(
                "the directory cannot be rewound", hint="; ".join(obstacles), path=directory.path
            )
        return Way.REWIND, ("this was asked for",)
    if directory.stage is Stage.REWINDING:
        why = "an earlier rewind was broken off: its files are of no use as they are"
        return _restore(backup, (why,)) if backup else (Way.REWIND, (why, "there is no backup"))
    diverged = _diverged(directory, primary)
    if diverged:
        if not obstacles:
            return Way.REWIND, (diverged,)
        return _restore(backup, (diverged, *obstacles))
    lacks = _lacks_wal(directory, primary, stored)
    if not lacks:
        return Way.START, ("it is on the primary's way, and the WAL that it lacks is there",)
    return _restore(backup, (lacks,))


def _restore(backup: StoredBackup | None, reasons: tuple[str, ...]) -> tuple[Way, tuple[str, ...]]:
    if backup is None:
        raise _NoBackup(reasons)
    return Way.RESTORE, reasons


def _diverged(directory: Directory, primary: Primary) -> str:
    """Why the directory is not on the primary's way; empty if it is."""
    control, timeline, history = directory.control, directory.timeline, primary.history
    assert control is not None
    if _other_timeline(directory, primary):
        return f"its timeline {timeline} is another one than the primary's of this number"
    if timeline == history.timeline:
        if not directory.was_standby:
            return f"it was itself a primary on timeline {timeline}"
        if directory.position > primary.position:
            return f"it is at {directory.position}, ahead of the primary"
        return ""
    branch = _left_at(history, timeline)
    if branch is None:
        return f"its timeline {timeline} is not on the way to the primary's timeline {history.timeline}"
    if directory.was_standby:
        if directory.position > branch:
            return f"it replayed timeline {timeline} beyond {branch}, where the primary left it"
    elif directory.running:
        return f"it is a primary on timeline {timeline}, which the primary left at {branch}"
    elif control.state != "shut down":
        return (
            f"it was a primary on timeline {timeline} and did not end well; the primary left that at {branch}"
        )
    elif control.checkpoint_lsn >= branch:
        return f"it wrote on on timeline {timeline} beyond {branch}, where the primary left it"
    return ""


def _obstacles(directory: Directory, primary: Primary) -> tuple[str, ...]:
    """What stands in the way of pg_rewind."""
    control = directory.control
    assert control is not None
    found = []
    if not control.data_checksum_version and not control.wal_log_hints:
        found.append("the cluster has neither data checksums nor wal_log_hints, so it cannot be rewound")
    if directory.timeline == primary.history.timeline or _other_timeline(directory, primary):
        found.append("pg_rewind tells two timelines of one number not apart")
    if directory.fixed:
        found.append(directory.fixed)
    return (*found, *primary.cannot_rewind)


def _other_timeline(directory: Directory, primary: Primary) -> bool:
    """Two servers that were promoted from one may have chosen the same number."""
    own, history = directory.history, primary.history
    if own is None or own.timeline not in (*(each.timeline for each in history.switches), history.timeline):
        return False
    way = [each for each in history.switches if each.timeline < own.timeline]
    return list(own.switches) != way


def _lacks_wal(directory: Directory, primary: Primary, stored: Stored | None) -> str:
    """Empty if the primary has all WAL from the replica's position on, or the repository has it up to where the primary's
    begins."""
    size = primary.state.segment_size
    needed = directory.position.segment_start(size)
    if primary.oldest_wal is not None and primary.oldest_wal <= needed:
        return ""
    reached = needed if stored is None else reachable_end(stored.coverage, needed, primary.history, size)
    if primary.oldest_wal is not None and reached >= primary.oldest_wal:
        return ""
    where = "the primary" if stored is None else "neither the primary nor the repository"
    has = "does not have" if stored is None else "has"
    return f"{where} {has} all the WAL from {needed} on"


def _backup(primary: Primary, stored: Stored | None) -> StoredBackup | None:
    """The newest one from which WAL leads to the primary."""
    if stored is None or primary.oldest_wal is None:
        return None
    size = primary.state.segment_size
    for backup in stored.backups:
        if not primary.history.passes(backup.timeline, backup.stop):
            continue
        start = backup.stop.segment_start(size)
        reached = max(backup.stop, reachable_end(stored.coverage, start, primary.history, size))
        if reached >= primary.oldest_wal:
            return backup
    return None


def _left_at(history: TimelineHistory, timeline: int) -> Lsn | None:
    """Where the way left a timeline; None if it is not on the way, or the way ends with it."""
    return next((each.at for each in history.switches if each.timeline == timeline), None)
