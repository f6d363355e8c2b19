"""What a compaction plans and does, as values for people and programs (docs/decisions/0019-compaction.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

# By the store's clock: who has listed the old object is done with it then.
STAYS = timedelta(days=2)
# A pack is rewritten if it shrinks to less than this share.
LIVE = 0.5


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """`packs` would be rewritten, `size_bytes` as `live_bytes` at most; `looked_at` were looked at."""

    looked_at: int
    packs: int
    size_bytes: int
    live_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "looked_at": self.looked_at,
            "packs": self.packs,
            "size_bytes": self.size_bytes,
            "live_bytes": self.live_bytes,
        }


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """`packs` were rewritten, `size_bytes` as `stored_bytes`. The difference is free after a cleanup that runs at
    `frees_at` or later. `failed` says which could not be read, and why."""

    packs: int
    size_bytes: int
    stored_bytes: int
    frees_at: datetime
    failed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "packs": self.packs,
            "size_bytes": self.size_bytes,
            "stored_bytes": self.stored_bytes,
            "frees_at": self.frees_at.isoformat(),
            "failed": list(self.failed),
        }
