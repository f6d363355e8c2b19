"""The names of what PostgreSQL archives and asks for, and of what the repository keeps of it.

PostgreSQL's grammar (src/include/access/xlog_internal.h) is closed: anything else is refused, whoever sends it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pgproof.errors import PreconditionError
from pgproof.model.lsn import WalSegment

_ARCHIVED = re.compile(
    r"(?P<segment>[0-9A-F]{24})(?P<partial>\.partial|\.[0-9A-F]{8}\.backup)?\Z|(?P<timeline>[0-9A-F]{8})\.history\Z"
)
_STORED = re.compile(r"(?P<segment>[0-9A-F]{24})(?:\.(?P<start>[0-9A-F]{8})-(?P<end>[0-9A-F]{8}))?\Z")
_MINIMAL = re.compile(r"(?P<segment>[0-9A-F]{24})\.minimal\.(?P<offset>[0-9A-F]{8})\Z")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history\Z")


class WalFile(StrEnum):
    """What a file that PostgreSQL archives is."""

    SEGMENT = "segment"
    PARTIAL = "partial"
    BACKUP = "backup"
    HISTORY = "history"


@dataclass(frozen=True, slots=True)
class WalName:
    """A name of PostgreSQL's: `segment` is the segment's own (24 digits), empty for a history file."""

    name: str
    kind: WalFile
    timeline: int
    segment: str = ""


def parse_wal_name(name: str) -> WalName:
    """Raises PreconditionError for anything that PostgreSQL does not archive."""
    found = _ARCHIVED.match(name)
    if found is not None:
        timeline = int((found["segment"] or found["timeline"])[:8], 16)
        if timeline > 0:
            if found["timeline"]:
                return WalName(name, WalFile.HISTORY, timeline)
            kind = {None: WalFile.SEGMENT, ".partial": WalFile.PARTIAL}.get(found["partial"], WalFile.BACKUP)
            return WalName(name, kind, timeline, found["segment"])
    raise PreconditionError(
        "this is no name of a WAL file",
        hint="archive_command passes %p, restore_command %f: 24 hexadecimal digits, or such as 00000002.history",
        name=name[:100],
    )


@dataclass(frozen=True, slots=True, order=True)
class StoredRange:
    """Which bytes of a segment an object holds, as its name says: offsets within the segment."""

    segment: WalSegment
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def whole(self) -> bool:
        return self.length == self.segment.size

    @property
    def name(self) -> str:
        return self.segment.name if self.whole else f"{self.segment.name}.{self.start:08X}-{self.end:08X}"


def parse_stored_name(name: str, segment_size: int) -> StoredRange | None:
    """What an object below `wal/<timeline>/` holds; None for the name of anything but a segment or a part."""
    found = _STORED.match(name)
    if found is None:
        return None
    try:
        segment = WalSegment.parse(found["segment"], segment_size)
    except ValueError:
        return None
    if found["start"] is None:
        return StoredRange(segment, 0, segment_size)
    start, end = int(found["start"], 16), int(found["end"], 16)
    part = StoredRange(segment, start, end)
    # A part that is everything has the segment's own name, so that nothing has two names.
    return part if start < end <= segment_size and part.name == name else None


def is_part_name(name: str) -> bool:
    """Whether an object below `wal/<timeline>/` holds but a part of a segment, whatever the segments' size."""
    found = _STORED.match(name)
    return found is not None and found["start"] is not None


def parse_minimal_name(name: str, segment_size: int) -> tuple[WalSegment, int] | None:
    """From which byte of which segment on the WAL was written with wal_level = minimal."""
    found = _MINIMAL.match(name)
    if found is None or int(found["offset"], 16) >= segment_size:
        return None
    try:
        return WalSegment.parse(found["segment"], segment_size), int(found["offset"], 16)
    except ValueError:
        return None


def parse_history_name(name: str) -> int | None:
    """The timeline of a history file's name."""
    found = _HISTORY.match(name)
    return int(found[1], 16) if found else None
