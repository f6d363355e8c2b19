"""What a cluster held at exactly one point of its WAL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from pgproof.errors import DataError
from pgproof.model.exact_point import Snapshot
from pgproof.model.fingerprints import DatabaseFingerprint, text
from pgproof.model.lsn import Lsn


@dataclass(frozen=True, slots=True)
class SourceFingerprint:
    """Whoever recovers the cluster along `timeline`, up to the record that begins at or behind `lsn` and without it,
    has the same rows. `snapshots` are those of the databases; a standby has none, because it stood still."""

    system_identifier: str
    timeline: int
    lsn: Lsn
    taken_at: datetime
    seconds: float
    databases: tuple[DatabaseFingerprint, ...]
    snapshots: tuple[Snapshot, ...] = ()

    @property
    def rows(self) -> int:
        return sum(database.rows for database in self.databases)

    def to_json(self) -> dict[str, Any]:
        return {
            "system_identifier": self.system_identifier,
            "timeline": self.timeline,
            "lsn": str(self.lsn),
            "taken_at": self.taken_at.isoformat(),
            "seconds": round(self.seconds, 3),
            "databases": [each.to_json() for each in self.databases],
            "snapshots": [str(each) for each in self.snapshots],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises DataError for what `to_json` did not write."""
        try:
            timeline, seconds = value["timeline"], float(value["seconds"])
            taken_at = datetime.fromisoformat(value["taken_at"])
            if type(timeline) is not int or not 1 <= timeline < 1 << 32:
                raise ValueError("not a timeline")
            if taken_at.tzinfo is None or not math.isfinite(seconds):
                raise ValueError("not a time")
            return cls(
                text(value["system_identifier"]),
                timeline,
                Lsn.parse(value["lsn"]),
                taken_at,
                seconds,
                tuple(DatabaseFingerprint.from_json(each) for each in value["databases"]),
                tuple(Snapshot.parse(each) for each in value["snapshots"]),
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise DataError("the fingerprints of a source are damaged", reason=repr(error)[:200]) from error
