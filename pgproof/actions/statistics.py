"""Figures of a repository, from its listings and manifests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgproof.actions.opening import open_repository
from pgproof.model.config import BackupConfig
from pgproof.repository.catalog import list_backups


@dataclass(frozen=True, slots=True)
class RepositoryStats:
    """Sizes in bytes. `size_bytes` adds up what the backups hold, `stored_bytes` what lies in the store."""

    cluster: str
    location: str
    backups: int
    proven: int
    degraded: int
    size_bytes: int
    stored_bytes: int
    wal_bytes: int
    objects: int
    oldest: datetime | None
    newest: datetime | None

    def to_json(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "location": self.location,
            "backups": self.backups,
            "proven": self.proven,
            "degraded": self.degraded,
            "size_bytes": self.size_bytes,
            "stored_bytes": self.stored_bytes,
            "wal_bytes": self.wal_bytes,
            "objects": self.objects,
            "oldest": self.oldest.isoformat() if self.oldest else None,
            "newest": self.newest.isoformat() if self.newest else None,
        }


def statistics(config: BackupConfig) -> RepositoryStats:
    repository = open_repository(config)
    backups = list_backups(repository)
    stored = wal = objects = 0
    for info in repository.bucket.list(repository.layout.root):
        objects += 1
        stored += info.size
        if info.key.startswith(repository.layout.wal):
            wal += info.size
    return RepositoryStats(
        cluster=repository.cluster,
        location=repository.bucket.location,
        backups=len(backups),
        proven=sum(b.proven for b in backups),
        degraded=sum(b.status != "ok" for b in backups),
        size_bytes=sum(b.size_bytes for b in backups),
        stored_bytes=stored,
        wal_bytes=wal,
        objects=objects,
        oldest=backups[0].finished_at if backups else None,
        newest=backups[-1].finished_at if backups else None,
    )
