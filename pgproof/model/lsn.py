"""Positions in the write-ahead log and the names of its segments.

Rules: PostgreSQL documentation, "WAL Internals"; segment names are hexadecimal, timelines too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")
_SEGMENT_NAME = re.compile(r"[0-9A-F]{24}\Z")


@total_ordering
@dataclass(frozen=True, slots=True)
class Lsn:
    """A byte position in the WAL, printed the way PostgreSQL prints it."""

    value: int

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read `16/B374D848`. Raises ValueError for anything else."""
        found = _LSN.match(text)
        if found is None:
            raise ValueError(f"not an LSN: {text!r}")
        return cls(int(found[1], 16) << 32 | int(found[2], 16))

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"

    def __lt__(self, other: Lsn) -> bool:
        return self.value < other.value

    def __add__(self, nbytes: int) -> Lsn:
        return Lsn(self.value + nbytes)

    def __sub__(self, other: Lsn) -> int:
        return self.value - other.value

    def segment_start(self, segment_size: int) -> Lsn:
        return Lsn(self.value - self.value % segment_size)


@dataclass(frozen=True, slots=True, order=True)
class WalSegment:
    """One WAL segment: its timeline, its number and the cluster's segment size in bytes."""

    timeline: int
    number: int
    size: int

    @classmethod
    def containing(cls, timeline: int, lsn: Lsn, size: int) -> WalSegment:
        return cls(timeline, lsn.value // size, size)

    @classmethod
    def parse(cls, name: str, size: int) -> WalSegment:
        """Read a 24-digit segment file name. Raises ValueError for any other shape."""
        if not _SEGMENT_NAME.match(name):
            raise ValueError(f"not a WAL segment name: {name!r}")
        per_high = 0x1_0000_0000 // size
        low = int(name[16:], 16)
        if low >= per_high:
            raise ValueError(f"not a WAL segment name for segments of {size} bytes: {name!r}")
        return cls(int(name[:8], 16), int(name[8:16], 16) * per_high + low, size)

    @property
    def name(self) -> str:
        per_high = 0x1_0000_0000 // self.size
        return f"{self.timeline:08X}{self.number // per_high:08X}{self.number % per_high:08X}"

    @property
    def start(self) -> Lsn:
        return Lsn(self.number * self.size)

    @property
    def end(self) -> Lsn:
        return Lsn((self.number + 1) * self.size)

    def next(self) -> WalSegment:
        return WalSegment(self.timeline, self.number + 1, self.size)


def segments_between(timeline: int, start: Lsn, stop: Lsn, size: int) -> list[WalSegment]:
    """The segments that hold the bytes from `start` up to, not including, `stop`."""
    first = start.value // size
    last = max(first, (stop.value - 1) // size)
    return [WalSegment(timeline, number, size) for number in range(first, last + 1)]
