"""WAL as a stream brings it, stored as it comes: parts of the open segment, then the whole segment.

Rule: `durable` covers only what the store has confirmed without a hole, and nothing at all before the stream has
been compared with what is stored of the segment it begins in. Bytes are held until their segment is stored whole,
so memory is bounded by the segments that wait: when there are too many, `has_room` says no and reading stops.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

from pgproof.errors import ConflictError, DataError, EngineError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.durable_front import DurableFront
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.wal_names import StoredRange
from pgproof.model.wal_pages import FIRST_PAGE_HEADER, check_first_page
from pgproof.repository.wal_archive import WalArchive
from pgproof.repository.wal_parts import known_prefix, remove_parts

_log = logging.getLogger(__name__)

_WAITING_BYTES = 64 << 20
_STORING_THREADS = 2
_LONGEST_PAUSE = 10.0
_ENDING_SECONDS = 10.0
# Of a segment that is complete, so much is still stored as a part of its own when a commit waits for it.
_SHORT_TAIL = 1 << 20


@dataclass(frozen=True, slots=True)
class Cadence:
    """When the open segment's new bytes become a part: so old or so many; `at_once` waits for nothing."""

    seconds: float = 1.0
    part_bytes: int = 16 << 20
    at_once: bool = False


@dataclass(eq=False)
class _Held:
    """A segment in memory, complete or still open, and its parts in the repository."""

    segment: WalSegment
    parts: list[StoredRange] = field(default_factory=list)
    theirs: list[StoredRange] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    begun: bool = False
    whole: bool = False

    @property
    def complete(self) -> bool:
        return len(self.data) == self.segment.size

    @property
    def begins_right(self) -> bool:
        """Whether so much is there that the header of its first page was checked."""
        return len(self.data) >= FIRST_PAGE_HEADER


class WalIntake:
    """Takes the WAL of one timeline in order from the start of a segment, of which `parts` may be stored already.

    `write` belongs to one thread; everything else may be asked from any. `moved` is called, from other threads,
    whenever more is durable.
    """

    def __init__(
        self,
        archive: WalArchive,
        segment: WalSegment,
        parts: Iterable[StoredRange],
        level: int | None,
        cadence: Cadence,
        moved: Callable[[], None],
    ) -> None:
        theirs = list(parts)
        self._archive = archive
        self._known = known_prefix(archive.repository, theirs)
        self._level = level
        self._cadence = cadence
        self._moved = moved
        self._front = DurableFront(segment.start)
        self._position = segment.start
        self._parted = segment.start + len(self._known)
        self._compared = not self._known
        self._unsaved_since = time.monotonic()
        self._held: deque[_Held] = deque([_Held(segment, theirs=theirs)])
        self._tidying: deque[_Held] = deque()
        self._changed = threading.Condition()
        self._flush = self._ending = False
        self.failure: EngineError | None = None
        self.trouble: EngineError | None = None
        self.stored_bytes = 0
        workers = [self._store_parts, *[self._store_segments] * _STORING_THREADS, self._tidy]
        self._threads = [
            threading.Thread(
                target=self._work, args=(worker,), name=f"pgproof-wal{worker.__name__}", daemon=True
            )
            for worker in workers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def position(self) -> Lsn:
        """The end of what was received."""
        return self._position

    @property
    def durable(self) -> Lsn | None:
        """Everything below is stored; None while the stream was not compared with what is stored already."""
        with self._changed:
            return self._front.lsn if self._compared else None

    def check(self) -> None:
        """Raise what went wrong in the background and cannot pass by itself."""
        if self.failure is not None:
            raise self.failure

    def has_room(self, timeout: float) -> bool:
        """Wait until more may be written, at most `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(self._roomy, timeout)

    def _roomy(self) -> bool:
        waiting = sum(held.segment.size for held in self._held if held.complete)
        return waiting <= max(_WAITING_BYTES, self._held[0].segment.size) or self.failure is not None

    def write(self, start: Lsn, data: memoryview) -> None:
        """Take the next bytes. Raises ConflictError if other bytes are stored at their place."""
        if start != self._position:
            raise DataError("the WAL stream has a hole", expected=self._position, received=start)
        with self._changed:
            try:
                self._take(data)
            except EngineError as error:
                # Nothing of what is wrong may be stored by the threads.
                self._fail(error)
                raise
            self._changed.notify_all()

    def _take(self, data: memoryview) -> None:
        while data:
            held = self._held[-1]
            if held.complete:
                held = _Held(held.segment.next())
                self._held.append(held)
            piece = data[: held.segment.size - len(held.data)]
            if self._position == self._unsaved_from():
                self._unsaved_since = time.monotonic()
            unchecked = not held.begins_right
            held.data += piece
            self._position += len(piece)
            data = data[len(piece) :]
            if unchecked and held.begins_right:
                self._check_beginning(held)
            if not self._compared:
                self._compare(held)

    def _unsaved_from(self) -> Lsn:
        return max(self._parted, self._held[-1].segment.start)

    def _check_beginning(self, held: _Held) -> None:
        header = bytes(held.data[:FIRST_PAGE_HEADER])
        key = self._archive.repository.layout.segment(held.segment)
        check_first_page(header, held.segment, self._archive.system_identifier, key)

    def _compare(self, held: _Held) -> None:
        length = min(len(held.data), len(self._known))
        if held.data[:length] != self._known[:length]:
            raise ConflictError(
                "the server's WAL is not the WAL that is stored",
                hint="another server has written this timeline here: give this one its own --cluster name",
                segment=held.segment.name,
            )
        if length == len(self._known):
            self._compared = True
            self._front.stored(held.segment.start, held.segment.start + length)
            self._known = b""
            self._moved()

    def flush(self, timeout: float) -> bool:
        """Store what is there as it is; whether all of it is stored within `timeout` seconds."""
        with self._changed:
            self._flush = True
            self._changed.notify_all()
            # Before everything was compared, what came is what is stored already.
            done = self._changed.wait_for(
                lambda: self.failure is not None or not self._compared or self._front.lsn >= self._position,
                timeout,
            )
            self._flush = False
        self.check()
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        deadline = time.monotonic() + _ENDING_SECONDS
        for thread in self._threads:
            # A store that does not answer must not keep us: what it was given and confirms late is found at
            # the next start.
            thread.join(max(0.0, deadline - time.monotonic()))

    # the threads

    def _work(self, worker: Callable[[], None]) -> None:
        try:
            worker()
        except EngineError as error:
            self._fail(error)
        except BaseException as error:
            self._fail(DataError("storing WAL ended by a defect", reason=repr(error)))
            raise

    def _fail(self, error: EngineError) -> None:
        with self._changed:
            self.failure = self.failure or error
            self._ending = True
            self._changed.notify_all()
        self._moved()

    def _store_parts(self) -> None:
        while True:
            with self._changed:
                while (taken := self._next_part()) is None:
                    if self._ending:
                        return
                    self._changed.wait(self._until_due())
                held, part = taken
                data = bytes(held.data[part.start : part.end])
            self._persistently(part, data)
            failpoint("wal.part.stored")
            with self._changed:
                self._parted = max(self._parted, held.segment.start + part.end)
                self._unsaved_since = time.monotonic()
                held.parts.append(part)
                self._front.stored(held.segment.start + part.start, held.segment.start + part.end)
                if held.whole and held not in self._tidying:
                    self._tidying.append(held)
                self._changed.notify_all()
            self._moved()

    def _next_part(self) -> tuple[_Held, StoredRange] | None:
        """What to store as a part now; called with the lock held."""
        if not self._compared or self.failure is not None:
            return None
        for held in self._held:
            start = max(0, self._parted - held.segment.start)
            length = len(held.data) - start
            if held.complete and (length > _SHORT_TAIL or not self._cadence.at_once or start == 0):
                continue  # it is stored whole at once, in a moment
            if length > 0 and held.begins_right and self._due(length):
                return held, StoredRange(held.segment, start, start + length)
        return None

    def _due(self, length: int) -> bool:
        return (
            self._cadence.at_once
            or self._flush
            or length >= self._cadence.part_bytes
            or time.monotonic() >= self._unsaved_since + self._cadence.seconds
        )

    def _until_due(self) -> float | None:
        if self._position <= self._unsaved_from() or self._cadence.at_once:
            return None
        return max(0.005, self._unsaved_since + self._cadence.seconds - time.monotonic())

    def _store_segments(self) -> None:
        while True:
            with self._changed:
                while (held := self._next_segment()) is None:
                    if self._ending:
                        return
                    self._changed.wait()
                held.begun = True
            self._persistently(StoredRange(held.segment, 0, held.segment.size), held.data)
            failpoint("wal.whole.stored")
            with self._changed:
                held.whole = True
                self._front.stored(held.segment.start, held.segment.end)
                if held is self._held[-1]:
                    self._held.append(_Held(held.segment.next()))
                self._held.remove(held)
                if held.parts or held.theirs:
                    self._tidying.append(held)
                self._changed.notify_all()
            self._moved()

    def _next_segment(self) -> _Held | None:
        if not self._compared or self.failure is not None:
            return None
        return next((held for held in self._held if held.complete and not held.begun), None)

    def _tidy(self) -> None:
        """Remove the parts of segments that are stored whole."""
        while True:
            with self._changed:
                while not self._tidying:
                    if self._ending:
                        return
                    self._changed.wait()
                held = self._tidying.popleft()
                held.data = bytearray()
                ours, held.parts = held.parts, []
                theirs, held.theirs = held.theirs, []
            failpoint("wal.tidying")
            self._remove(held.segment, ours, compare=False)
            self._remove(held.segment, theirs, compare=True)
            failpoint("wal.tidied")

    def _remove(self, segment: WalSegment, parts: list[StoredRange], *, compare: bool) -> None:
        try:
            if parts:
                remove_parts(self._archive.repository, segment, parts, compare=compare)
        except (ConflictError, DataError):
            raise
        except EngineError as error:
            # Parts that stay are in nobody's way; the next start of a streamer removes them.
            _log.warning("parts of WAL segment %s stay until the next start: %s", segment.name, error)

    def _persistently(self, stored: StoredRange, data: bytes | bytearray) -> None:
        """Store, for as long as it takes: the stream stands still meanwhile, and nothing is acknowledged."""
        pause = 0.2
        while True:
            try:
                written = self._archive.create(stored, data, self._level)
                break
            except TransientError as error:
                if self._ending:
                    raise
                if self.trouble is None:
                    _log.warning("WAL cannot be stored, and is tried again: %s", error)
                self.trouble = error
            with self._changed:
                self._changed.wait_for(lambda: self._ending, pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)
        if self.trouble is not None:
            self.trouble = None
            _log.warning("WAL is stored again")
        with self._changed:
            self.stored_bytes += written
