"""A pin: somebody wants a backup kept, whatever the rules say. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

FOR_GOOD = datetime(9998, 12, 31, tzinfo=UTC)
"""How a pin without an end is shown."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Somebody wants a backup kept: until a time, or for good. `broken` is one that cannot be read."""

    until: datetime | None
    why: str = ""
    by: str = ""
    broken: bool = False

    def holds(self, now: datetime) -> bool:
        return self.broken or self.until is None or now < self.until

    def __str__(self) -> str:
        if self.broken:
            return "has a pin that cannot be read"
        until = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "for good"
        return f"pinned {until}" + (f": {self.why}" if self.why else "")
