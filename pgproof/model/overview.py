"""All that a repository says about one cluster: its backups, the moments they lead to, and what is stored. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgproof.model.growth import Growth, monthly_cost
from pgproof.model.report import BackupInfo
from pgproof.model.wal_status import Restorable

KINDS = ("backups", "wal", "other")


@dataclass(frozen=True, slots=True)
class Catalog:
    """The backups, oldest first, and what can be restored; `window_problem` is why nobody can tell that."""

    cluster: str
    at: datetime
    backups: tuple[BackupInfo, ...]
    windows: tuple[Restorable, ...]
    window_problem: str = ""

    @property
    def newest_proven(self) -> BackupInfo | None:
        return next((each for each in reversed(self.backups) if each.proven), None)


@dataclass(frozen=True, slots=True)
class Storage:
    """What lies in the store: bytes by kind, objects, and how that grows. `price` is for a GB and a month."""

    location: str
    stored: Mapping[str, int]
    objects: int
    growth: Growth
    price: float | None = None

    @property
    def stored_bytes(self) -> int:
        return sum(self.stored.values())

    def cost(self, nbytes: float) -> float | None:
        return None if self.price is None else monthly_cost(nbytes, self.price)


@dataclass(frozen=True, slots=True)
class Overview:
    catalog: Catalog
    storage: Storage

    def to_json(self) -> dict[str, Any]:
        """The figures of `stats`: the first eleven fields are promised."""
        catalog, storage = self.catalog, self.storage
        backups = catalog.backups
        cost = storage.cost(storage.stored_bytes)
        size, added = sum(b.size_bytes for b in backups), sum(b.stored_bytes for b in backups)
        return {
            "cluster": catalog.cluster,
            "location": storage.location,
            "backups": len(backups),
            "proven": sum(b.proven for b in backups),
            "degraded": sum(b.status != "ok" for b in backups),
            "size_bytes": size,
            "stored_bytes": storage.stored_bytes,
            "wal_bytes": storage.stored["wal"],
            "objects": storage.objects,
            "oldest": backups[0].finished_at.isoformat() if backups else None,
            "newest": backups[-1].finished_at.isoformat() if backups else None,
            "types": dict(Counter(str(b.type) for b in backups)),
            "pinned": sum(b.pinned(catalog.at) for b in backups),
            "newest_proven": catalog.newest_proven.backup_id if catalog.newest_proven else None,
            "ratio": round(size / added, 2) if added else None,
            "windows": [window.to_json() for window in catalog.windows],
            "growth": storage.growth.to_json(),
            "cost_per_month": None if cost is None else round(cost, 4),
        }
