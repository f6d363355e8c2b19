"""WAL that was received, held until its segments are stored: what is to be stored next, and how far it is durable.

Neither threads nor storage are here; whoever calls takes care that only one thread at a time does.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pgproof.errors import ConflictError
from pgproof.model.durable_front import DurableFront
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.wal_merging import covers, worth_merging
from pgproof.model.wal_names import StoredRange
from pgproof.model.wal_pages import FIRST_PAGE_HEADER, check_first_page
from pgproof.repository.wal_parts import KEEP_SECONDS, Replaced

# Longer parts are not merged any more: segments may be a gigabyte.
_LONGEST_MERGED = 64 << 20
# Of a segment that is complete, so much is still stored as a part of its own when a commit waits for it.
_SHORT_TAIL = 1 << 20


@dataclass(frozen=True, slots=True)
class Cadence:
    """When the open segment's new bytes become a part: so old or so many; `at_once` waits for nothing. What is
    replaced by something longer is kept for `keep_seconds`."""

    seconds: float = 1.0
    part_bytes: int = 16 << 20
    at_once: bool = False
    keep_seconds: float = KEEP_SECONDS


@dataclass(eq=False)
class HeldSegment:
    """A segment in memory, complete or still open, and its parts in the repository: `theirs` are those of a
    streamer before us."""

    segment: WalSegment
    parts: list[StoredRange] = field(default_factory=list)
    theirs: list[StoredRange] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    scanned: int = 0
    begun: bool = False
    whole: bool = False

    @property
    def range(self) -> StoredRange:
        return StoredRange(self.segment, 0, self.segment.size)

    @property
    def complete(self) -> bool:
        return len(self.data) == self.segment.size

    def replaced(self, by: StoredRange) -> Replaced:
        """Take the parts that `by` covers away from here, because it is stored now."""
        ours = tuple(part for part in self.parts if covers(by, part))
        theirs = tuple(part for part in self.theirs if covers(by, part))
        self.parts = [part for part in self.parts if part not in ours]
        self.theirs = [part for part in self.theirs if part not in theirs]
        return Replaced(by, ours, theirs)

    @property
    def begins_right(self) -> bool:
        """Whether so much is there that the header of its first page was checked."""
        return len(self.data) >= FIRST_PAGE_HEADER


class HeldWal:
    """The segments that are not stored whole yet, the open one last.

    `known` is what is stored already of the first one: until as much was received and is equal, nothing may be stored and
    nothing is durable.
    """

    def __init__(
        self,
        segment: WalSegment,
        known: bytes,
        theirs: Iterable[StoredRange],
        system_identifier: str,
        cadence: Cadence,
    ) -> None:
        self._known = known
        self._system_identifier = system_identifier
        self._cadence = cadence
        self._front = DurableFront(segment.start)
        self._parted = segment.start + len(known)
        self._unsaved_since = time.monotonic()
        self._segments = deque([HeldSegment(segment, theirs=list(theirs))])
        self.position = segment.start
        self.compared = not known
        self.flushing = False

    @property
    def durable(self) -> Lsn | None:
        return self._front.lsn if self.compared else None

    @property
    def all_stored(self) -> bool:
        """Before everything was compared, what came is what is stored already."""
        return not self.compared or self._front.lsn >= self.position

    @property
    def waiting_bytes(self) -> int:
        """How much is complete and not stored."""
        return sum(held.segment.size for held in self._segments if held.complete)

    @property
    def segment_size(self) -> int:
        return self._segments[0].segment.size

    def take(self, data: memoryview) -> None:
        """Append what was received. Raises ConflictError for other bytes than are stored, DataError for a
        segment that begins wrong: then nothing of it may be stored."""
        while data:
            held = self._segments[-1]
            if held.complete:
                held = HeldSegment(held.segment.next())
                self._segments.append(held)
            piece = data[: held.segment.size - len(held.data)]
            if self.position == self._unsaved_from:
                self._unsaved_since = time.monotonic()
            unchecked = not held.begins_right
            held.data += piece
            self.position += len(piece)
            data = data[len(piece) :]
            if unchecked and held.begins_right:
                header = bytes(held.data[:FIRST_PAGE_HEADER])
                check_first_page(header, held.segment, self._system_identifier, held.segment.name)
            if not self.compared:
                self._compare(held)

    def _compare(self, held: HeldSegment) -> None:
        length = min(len(held.data), len(self._known))
        if held.data[:length] != self._known[:length]:
            raise ConflictError(
                "the server's WAL is not the WAL that is stored",
                hint="another server has written this timeline here: give this one its own --cluster name",
                segment=held.segment.name,
            )
        if length == len(self._known):
            self.compared = True
            self._front.stored(held.segment.start, held.segment.start + length)
            self._known = b""

    # parts

    def next_part(self) -> tuple[HeldSegment, StoredRange] | None:
        """What to store as a part now."""
        if not self.compared:
            return None
        for held in self._segments:
            start = max(0, self._parted - held.segment.start)
            length = len(held.data) - start
            if held.complete and (length > _SHORT_TAIL or not self._cadence.at_once or start == 0):
                continue  # it is stored whole at once, in a moment
            if length > 0 and held.begins_right and self._due(length):
                return held, StoredRange(held.segment, start, start + length)
        return None

    def until_due(self) -> float | None:
        """Seconds until there will be a part to store; None if that takes more WAL."""
        if self.position <= self._unsaved_from or self._cadence.at_once:
            return None
        return max(0.005, self._unsaved_since + self._cadence.seconds - time.monotonic())

    def part_stored(self, held: HeldSegment, part: StoredRange) -> None:
        self._parted = max(self._parted, held.segment.start + part.end)
        self._unsaved_since = time.monotonic()
        held.parts.append(part)
        self._front.stored(held.segment.start + part.start, held.segment.start + part.end)

    def next_merge(self) -> tuple[HeldSegment, StoredRange] | None:
        """A part that should be stored in place of many of the open segment."""
        held = self._segments[-1]
        if not self.compared or held.complete:
            return None
        merged = worth_merging(
            part
            for part in (*held.parts, *held.theirs)
            if part.end <= len(held.data) and part.length < _LONGEST_MERGED
        )
        return None if merged is None else (held, merged)

    @property
    def _unsaved_from(self) -> Lsn:
        return max(self._parted, self._segments[-1].segment.start)

    def _due(self, length: int) -> bool:
        return (
            self._cadence.at_once
            or self.flushing
            or length >= self._cadence.part_bytes
            or time.monotonic() >= self._unsaved_since + self._cadence.seconds
        )

    # whole segments

    def next_segment(self) -> HeldSegment | None:
        """A complete segment that nobody stores yet."""
        if not self.compared:
            return None
        return next((held for held in self._segments if held.complete and not held.begun), None)

    def segment_stored(self, held: HeldSegment) -> None:
        held.whole = True
        self._front.stored(held.segment.start, held.segment.end)
        if held is self._segments[-1]:
            self._segments.append(HeldSegment(held.segment.next()))
        self._segments.remove(held)
