"""What the engine answers: descriptions of backups, restores and verifications."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person should know about a backup.

    `kind` is a stable word (`skipped-file`, `page-checksum`, `notice`, `external-config`, …);
    a finding that `degrades` makes the backup's status "degraded".
    """

    kind: str
    message: str
    degrades: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "message": self.message, "degrades": self.degrades}


@dataclass(frozen=True, slots=True)
class VerificationSummary:
    """The best verification a backup has passed, as `list` shows it."""

    level: VerifyLevel
    at: datetime
    ok: bool

    @property
    def proven(self) -> bool:
        """Whether the backup was really restored and started."""
        return self.ok and self.level.includes(VerifyLevel.START)


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """One committed backup. Sizes are bytes; times are aware, in UTC."""

    backup_id: str
    cluster: str
    type: BackupType
    method: str
    status: str
    parent_id: str | None
    started_at: datetime
    finished_at: datetime
    size_bytes: int
    stored_bytes: int
    start_lsn: Lsn
    stop_lsn: Lsn
    timeline: int
    server_version: str
    system_identifier: str
    change_detection: str
    findings: tuple[Finding, ...] = ()
    verified: VerificationSummary | None = None
    pinned_until: datetime | None = None

    @property
    def proven(self) -> bool:
        """Whether it was really restored and started, and nothing worse was found since."""
        return self.verified is not None and self.verified.proven

    @property
    def ratio(self) -> float | None:
        """How many times smaller it is in the store; None if nothing was stored for it."""
        return self.size_bytes / self.stored_bytes if self.stored_bytes else None

    def pinned(self, now: datetime) -> bool:
        return self.pinned_until is not None and now < self.pinned_until

    @property
    def size_mb(self) -> float:
        return self.size_bytes / 1e6

    @property
    def seconds(self) -> float:
        return (self.finished_at - self.started_at).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """The promised JSON fields, and behind them what follows from those."""
        verified = None
        if self.verified is not None:
            verified = {
                "level": str(self.verified.level),
                "when": self.verified.at.isoformat(),
                "ok": self.verified.ok,
            }
        return {
            "backup_id": self.backup_id,
            "cluster": self.cluster,
            "type": str(self.type),
            "method": self.method,
            "status": self.status,
            "parent_id": self.parent_id,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "size_bytes": self.size_bytes,
            "stored_bytes": self.stored_bytes,
            "start_lsn": str(self.start_lsn),
            "stop_lsn": str(self.stop_lsn),
            "timeline": self.timeline,
            "server_version": self.server_version,
            "system_identifier": self.system_identifier,
            "change_detection": self.change_detection,
            "findings": [finding.to_json() for finding in self.findings],
            "verified": verified,
            "pinned_until": self.pinned_until.isoformat() if self.pinned_until else None,
            "proven": self.proven,
            "seconds": round(self.seconds, 3),
            "ratio": None if self.ratio is None else round(self.ratio, 2),
        }


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: `ok` is None where it could not be checked here.

    Failed checks carry a `hint`; `seconds` is how long it took.
    """

    name: str
    ok: bool | None
    detail: str = ""
    hint: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ok": self.ok,
            "detail": self.detail,
            "hint": self.hint,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What a verification did and found.

    `proven` is true only when the backup was really restored and started. `checks` lists every
    step with its duration; `bytes_read` counts stored bytes, `seconds` the whole run.
    `damage` names what is missing or wrong (object, file and page), or the beginning of it; `damaged_packs` names
    all packs that are: the next backup that would build on them stores their pages again. `refuted` is said by an
    audit: the backup never had the right content, which no later verification takes back.
    """

    backup_id: str
    level: VerifyLevel
    ok: bool
    proven: bool
    started_at: datetime
    seconds: float
    bytes_read: int
    checks: tuple[Check, ...] = ()
    damage: tuple[str, ...] = ()
    damaged_packs: tuple[str, ...] = ()
    sandbox: str = ""
    refuted: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "backup_id": self.backup_id,
            "level": str(self.level),
            "ok": self.ok,
            "refuted": self.refuted,
            "proven": self.proven,
            "started_at": self.started_at.isoformat(),
            "seconds": round(self.seconds, 3),
            "bytes_read": self.bytes_read,
            "sandbox": self.sandbox,
            "checks": [check.to_json() for check in self.checks],
            "damage": list(self.damage),
            "damaged_packs": list(self.damaged_packs),
        }


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore wrote. `end_lsn` is where recovery really ended, None without recovery; `last_commit` is the
    newest one in the WAL that was replayed, where somebody has looked. `written_bytes` is less than the size
    where a delta restore found pages in place."""

    backup_id: str
    data_dir: str
    size_bytes: int
    files: int
    seconds: float
    recovered: bool
    end_lsn: Lsn | None = None
    tablespaces: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    target: str = ""
    last_commit: dict[str, Any] | None = None
    written_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "backup_id": self.backup_id,
            "data_dir": self.data_dir,
            "size_bytes": self.size_bytes,
            "written_bytes": self.written_bytes,
            "files": self.files,
            "seconds": round(self.seconds, 3),
            "recovered": self.recovered,
            "target": self.target,
            "last_commit": self.last_commit,
            "end_lsn": str(self.end_lsn) if self.end_lsn else None,
            "tablespaces": dict(self.tablespaces),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `total` is an estimate in bytes, 0 while unknown."""

    phase: str
    done: int = 0
    total: int = 0


ProgressCallback = Callable[[Progress], None]


def no_progress(_progress: Progress) -> None:
    """Take a progress report and do nothing with it."""
