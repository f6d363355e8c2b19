"""What a WAL streamer is told, and what it says at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgproof.errors import PreconditionError
from pgproof.model.lsn import Lsn
from pgproof.model.wal_legs import Gap

DEFAULT_SLOT = "pgproof"
# Nothing but `*` matches this by accident, and a streamer does not run with `*` unless it is told to.
APPLICATION_NAME = "pgproof_stream"


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How to stream: `create_slot` makes the slot where it is missing or lost; the open segment's new bytes are
    stored when they are `part_seconds` old or `part_bytes` many, with `synchronous` at once. Parts that were replaced
    are kept for `keep_seconds`, for whoever is making a list."""

    slot: str = DEFAULT_SLOT
    create_slot: bool = False
    synchronous: bool = False
    application_name: str = APPLICATION_NAME
    part_seconds: float = 1.0
    part_bytes: int = 16 << 20
    keep_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not 0.05 <= self.part_seconds <= 3600:
            raise PreconditionError(
                "the time between two parts is out of range",
                hint="choose 0.05 to 3600 seconds; 1 is the default",
                seconds=self.part_seconds,
            )
        if not 8192 <= self.part_bytes <= 1 << 30:
            raise PreconditionError(
                "the size of a part is out of range",
                hint="choose 8192 bytes to 1 GiB; 16777216 is the default",
                bytes=self.part_bytes,
            )
        name = self.application_name
        if not (0 < len(name) < 64 and name.isascii() and name.isprintable()) or name == "*":
            raise PreconditionError(
                "not a usable application name",
                hint="use letters, digits and underscores, at most 63, such as 'pgproof_stream'",
                application_name=name,
            )


@dataclass(frozen=True, slots=True)
class StreamReport:
    """How far a streamer came."""

    timeline: int
    durable: Lsn
    stored_bytes: int
    connections: int
    gaps: tuple[Gap, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "timeline": self.timeline,
            "durable_lsn": str(self.durable),
            "stored_bytes": self.stored_bytes,
            "connections": self.connections,
            "gaps": [str(gap) for gap in self.gaps],
        }
