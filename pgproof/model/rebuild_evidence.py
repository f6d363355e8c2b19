"""What a rebuild knows before it decides: the replica's directory, its primary, and what the repository has. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pgproof.model.control_file import ControlFile
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_coverage import Coverage

STANDBY_STATES = ("shut down in recovery", "in archive recovery")


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
    ends, to a page. `marked` is whose cluster is being restored there, where that was broken off.
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
    marked: int | None = None

    @property
    def system_identifier(self) -> int | None:
        return self.marked if self.control is None else self.control.system_identifier

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
