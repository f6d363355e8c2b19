"""How long a real recovery would take now, from what a drill measured.

Left out are noticing and deciding, getting a machine, bringing clients over, and cold caches; and another machine, disk or
network than the drill's may be faster or slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_LEAST_BYTES = 4 << 20
_LEAST_SECONDS = 0.1
ASSUMED_REPLAY_RATE = 16e6


@dataclass(frozen=True, slots=True)
class Measured:
    """What a drill took, in seconds, and for how many bytes."""

    choose_seconds: float
    restored_bytes: int
    restore_seconds: float
    replayed_bytes: int
    replay_seconds: float
    start_seconds: float

    @property
    def seconds(self) -> float:
        return self.choose_seconds + self.restore_seconds + self.replay_seconds + self.start_seconds


@dataclass(frozen=True, slots=True)
class RtoForecast:
    """The parts of a forecast, in seconds, for `size_bytes` of backup and `wal_bytes` of WAL; rates are bytes a second.

    `assumed` says that the drill replayed too little for a rate of its own.
    """

    size_bytes: int
    wal_bytes: int
    restore_rate: float
    replay_rate: float
    assumed: bool
    choose_seconds: float
    restore_seconds: float
    replay_seconds: float
    start_seconds: float

    @property
    def seconds(self) -> float:
        return self.choose_seconds + self.restore_seconds + self.replay_seconds + self.start_seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 3),
            "choose_seconds": round(self.choose_seconds, 3),
            "restore_seconds": round(self.restore_seconds, 3),
            "replay_seconds": round(self.replay_seconds, 3),
            "start_seconds": round(self.start_seconds, 3),
            "size_bytes": self.size_bytes,
            "wal_bytes": self.wal_bytes,
            "restore_bytes_per_second": round(self.restore_rate),
            "replay_bytes_per_second": round(self.replay_rate),
            "replay_rate_assumed": self.assumed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            size_bytes=int(value["size_bytes"]),
            wal_bytes=int(value["wal_bytes"]),
            restore_rate=float(value["restore_bytes_per_second"]),
            replay_rate=float(value["replay_bytes_per_second"]),
            assumed=value["replay_rate_assumed"] is True,
            choose_seconds=float(value["choose_seconds"]),
            restore_seconds=float(value["restore_seconds"]),
            replay_seconds=float(value["replay_seconds"]),
            start_seconds=float(value["start_seconds"]),
        )


def forecast_rto(measured: Measured, size_bytes: int, wal_bytes: int) -> RtoForecast:
    """For a backup of `size_bytes`, and `wal_bytes` of WAL from its start to the newest moment."""
    restore_rate = max(1, measured.restored_bytes) / max(measured.restore_seconds, 1e-3)
    enough = measured.replayed_bytes >= _LEAST_BYTES and measured.replay_seconds >= _LEAST_SECONDS
    replay_rate = measured.replayed_bytes / measured.replay_seconds if enough else ASSUMED_REPLAY_RATE
    return RtoForecast(
        size_bytes=size_bytes,
        wal_bytes=wal_bytes,
        restore_rate=restore_rate,
        replay_rate=replay_rate,
        assumed=not enough,
        choose_seconds=measured.choose_seconds,
        restore_seconds=size_bytes / restore_rate,
        replay_seconds=wal_bytes / replay_rate,
        start_seconds=measured.start_seconds,
    )
