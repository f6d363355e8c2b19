"""What a cleanup plans, and what it has done, as values for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgproof.model.compaction import CompactionPlan, CompactionReport
from pgproof.model.retention import RetentionPlan
from pgproof.model.retention_policy import RetentionPolicy

# A plan that takes more of what backups have stored than this has to be confirmed: more likely than a wish is a wrong setting.
_MOST = 0.5


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What would go in one copy of the repository: bytes and objects by what they are; `locked` objects may not go yet."""

    location: str
    objects: int
    bytes: Mapping[str, int]
    stored_bytes: int
    backup_bytes: int
    withdrawn_bytes: int
    locked: int = 0

    @property
    def freed_bytes(self) -> int:
        return sum(self.bytes.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "location": self.location,
            "objects": self.objects,
            "freed_bytes": dict(self.bytes),
            "stored_bytes": self.stored_bytes,
            "locked_objects": self.locked,
        }


@dataclass(frozen=True)
class CleanupPlan:
    """`dead_runs` are runs that were broken off and will be given up, `running` those at work; `compaction` is None
    unless packs are to be rewritten."""

    cluster: str
    at: datetime
    policy: RetentionPolicy
    retention: RetentionPlan
    copies: tuple[CopyPlan, ...]
    dead_runs: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    compaction: CompactionPlan | None = None

    @property
    def large(self) -> bool:
        """Whether so much would go that somebody should agree."""
        return any(
            self.retention.removed and copy.withdrawn_bytes > _MOST * copy.backup_bytes
            for copy in self.copies
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "at": self.at.isoformat(),
            "policy": self.policy.to_json(),
            "backups": [
                {
                    "backup_id": verdict.backup_id,
                    "type": str(verdict.candidate.type),
                    "method": verdict.candidate.method,
                    "finished_at": verdict.candidate.finished_at.isoformat(),
                    "keep": verdict.keep,
                    "reasons": list(verdict.reasons),
                }
                for verdict in self.retention.verdicts
            ],
            "removed": list(self.retention.removed),
            "dead_runs": list(self.dead_runs),
            "running": list(self.running),
            "copies": [copy.to_json() for copy in self.copies],
            "needs_confirmation": self.large,
            "notes": list(self.notes),
            "compaction": self.compaction.to_json() if self.compaction else None,
        }


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What has gone from one copy. `refused` is what the store did not let go, with why."""

    location: str
    removed: tuple[str, ...]
    dead_runs: tuple[str, ...]
    objects: Mapping[str, int]
    bytes: Mapping[str, int]
    refused: tuple[str, ...] = ()

    @property
    def freed_bytes(self) -> int:
        return sum(self.bytes.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "location": self.location,
            "removed": list(self.removed),
            "dead_runs": list(self.dead_runs),
            "objects": dict(self.objects),
            "freed_bytes": dict(self.bytes),
            "refused": list(self.refused),
        }


@dataclass(frozen=True)
class CleanupReport:
    """`spared` are backups that the plan would have removed, and that got a pin, or could not be removed, meanwhile."""

    plan: CleanupPlan
    copies: tuple[CopyReport, ...]
    seconds: float
    spared: tuple[str, ...] = ()
    by: str = ""
    compaction: CompactionReport | None = None

    @property
    def ok(self) -> bool:
        damaged = self.compaction is not None and self.compaction.failed
        return not damaged and not any(copy.refused for copy in self.copies)

    @property
    def removed(self) -> tuple[str, ...]:
        """The backups that are gone from every copy."""
        return tuple(
            sorted({backup_id for copy in self.copies for backup_id in copy.removed} - set(self.spared))
        )

    @property
    def freed_bytes(self) -> int:
        return sum(copy.freed_bytes for copy in self.copies)

    def to_json(self) -> dict[str, Any]:
        return {
            "cluster": self.plan.cluster,
            "at": self.plan.at.isoformat(),
            "by": self.by,
            "seconds": round(self.seconds, 3),
            "ok": self.ok,
            "removed": list(self.removed),
            "spared": list(self.spared),
            "kept": list(self.plan.retention.kept),
            "copies": [copy.to_json() for copy in self.copies],
            "compaction": self.compaction.to_json() if self.compaction else None,
            "plan": self.plan.to_json(),
        }
