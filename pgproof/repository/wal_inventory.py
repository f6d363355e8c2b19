"""What a list of the stored WAL shows.

No store makes a list at one moment, and a streamer replaces parts by longer ones and by whole segments meanwhile. What is
replaced stays for KEEP_SECONDS (wal_parts.py), so a list that took less shows the one or the other. One that took longer
may show neither, which would pass for the end of the WAL: it is made again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from pgproof.errors import TransientError
from pgproof.model.lsn import WalSegment
from pgproof.model.wal_coverage import Coverage, Piece, Stretch
from pgproof.model.wal_names import StoredRange, parse_history_name, parse_minimal_name, parse_stored_name
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.repository import Repository

LIST_SECONDS = 5.0
_TRIES = 5


@dataclass(frozen=True, slots=True)
class StoredWal:
    """A stored segment or part: its range, its object's name and size, and when it was stored."""

    range: StoredRange
    info: ObjectInfo

    @property
    def piece(self) -> Piece:
        at = self.range.segment.start
        return Piece(self.range.segment.timeline, at + self.range.start, at + self.range.end)

    @property
    def stored_at(self) -> datetime:
        return self.info.modified


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a list of the archive showed: pieces in the order of timeline and position, history files by timeline, and
    where WAL begins that was written with wal_level = minimal."""

    pieces: tuple[StoredWal, ...]
    histories: tuple[int, ...]
    minimal: tuple[tuple[WalSegment, int], ...] = ()

    def stored(self) -> Coverage:
        return Coverage.of(stored.piece for stored in self.pieces)

    def coverage(self) -> Coverage:
        """What can be replayed. PostgreSQL refuses what was written with wal_level = minimal, and all behind it; a backup
        that was taken later begins in a later segment."""
        found = self.stored()
        for segment, offset in self.minimal:
            found = found.without(segment.timeline, Stretch(segment.start + offset, segment.end))
        return found


def list_wal(repository: Repository, segment_size: int, timeline: int | None = None) -> Inventory:
    """Everything that is stored, of one timeline or of all."""
    layout, begun = repository.layout, time.monotonic()
    prefix = layout.wal if timeline is None else layout.timeline(timeline)
    found = _listed(repository, segment_size, prefix)
    if time.monotonic() - begun <= LIST_SECONDS:
        return found
    # A long archive takes its time. Only at the ends is anything replaced, and they are listed quickly.
    newest = {stored.range.segment.timeline: stored.range.segment for stored in found.pieces}
    pieces = [each for each in found.pieces if each.range.segment != newest[each.range.segment.timeline]]
    for segment in newest.values():
        pieces += list_from(repository, segment).pieces
    return Inventory(tuple(sorted(pieces, key=_order)), found.histories, found.minimal)


def list_from(repository: Repository, segment: WalSegment) -> Inventory:
    """What is stored of the segment's timeline from this segment on. Raises TransientError for a store so slow that its
    lists prove nothing."""
    layout = repository.layout
    for _try in range(_TRIES):
        begun = time.monotonic()
        # A list begins behind a name, and the segment's own is wanted: some before it are left out again.
        found = _listed(
            repository, segment.size, layout.timeline(segment.timeline), layout.segment(segment)[:-1]
        )
        if time.monotonic() - begun <= LIST_SECONDS:
            pieces = tuple(stored for stored in found.pieces if stored.range.segment >= segment)
            return Inventory(pieces, found.histories, found.minimal)
    raise TransientError(
        "the repository takes too long to list WAL",
        hint="what is replaced meanwhile may be missing in such a list: see what slows the store down",
        seconds=LIST_SECONDS,
    )


def _listed(repository: Repository, segment_size: int, prefix: str, after: str = "") -> Inventory:
    pieces: list[StoredWal] = []
    histories: list[int] = []
    minimal: list[tuple[WalSegment, int]] = []
    for info in repository.bucket.list(prefix, after):
        folder, _slash, name = info.key.removeprefix(repository.layout.wal).partition("/")
        found = parse_stored_name(name, segment_size)
        if found is not None and folder == f"{found.segment.timeline:08X}":
            pieces.append(StoredWal(found, info))
        elif (timeline := parse_history_name(name)) is not None and folder == f"{timeline:08X}":
            histories.append(timeline)
        elif (note := parse_minimal_name(name, segment_size)) is not None:
            minimal.append(note)
    return Inventory(tuple(sorted(pieces, key=_order)), tuple(sorted(histories)), tuple(sorted(minimal)))


def _order(stored: StoredWal) -> tuple[WalSegment, int, int]:
    return stored.range.segment, stored.range.start, stored.range.end
