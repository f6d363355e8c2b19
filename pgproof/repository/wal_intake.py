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
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Self

from pgproof.errors import ConflictError, DataError, EngineError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.wal_names import StoredRange
from pgproof.model.wal_settings import MINIMAL, settings_changes
from pgproof.repository.frame_slots import FRAME_SIZE
from pgproof.repository.wal_archive import WalArchive
from pgproof.repository.wal_held import Cadence, HeldSegment, HeldWal
from pgproof.repository.wal_parts import Replaced, known_prefix, remove_parts

_log = logging.getLogger(__name__)

_WAITING_BYTES = 64 << 20
_STORING_THREADS = 2
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_ENDING_SECONDS = 10.0
_NEVER = Lsn(0)


class WalIntake:
    """Takes the WAL of one timeline in order from the start of a segment, of which `parts` may be stored already.
    What is `left_over`, there or elsewhere, is removed in time. Of WAL that the server had written `before` it was
    connected to, it is noted where wal_level was minimal: a server has to be restarted for that.

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
        left_over: Iterable[Replaced] = (),
        before: Lsn = _NEVER,
    ) -> None:
        theirs = list(parts)
        known = known_prefix(archive.repository, theirs)
        self._archive = archive
        self._level = level
        self._moved = moved
        self._held = HeldWal(segment, known, theirs, archive.system_identifier, cadence)
        self._before = before
        self._keep = cadence.keep_seconds
        # What was replaced, and from when on it may go; always later than what was replaced before.
        self._going: deque[tuple[float, Replaced]] = deque()
        self._merging_from = 0.0
        self._changed = threading.Condition()
        for each in left_over:
            self._goes(each)
        self._ending = False
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
        return self._held.position

    @property
    def durable(self) -> Lsn | None:
        """Everything below is stored; None while the stream was not compared with what is stored already."""
        with self._changed:
            return self._held.durable

    def check(self) -> None:
        """Raise what went wrong in the background and cannot pass by itself."""
        if self.failure is not None:
            raise self.failure

    def has_room(self, timeout: float) -> bool:
        """Wait until more may be written, at most `timeout` seconds."""
        limit = max(_WAITING_BYTES, self._held.segment_size)
        with self._changed:
            return self._changed.wait_for(
                lambda: self._held.waiting_bytes <= limit or self.failure is not None, timeout
            )

    def write(self, start: Lsn, data: memoryview) -> None:
        """Take the next bytes. Raises ConflictError if other bytes are stored at their place."""
        with self._changed:
            before = self._held.compared
            try:
                if start != self._held.position:
                    raise DataError("the WAL stream has a hole", expected=self._held.position, received=start)
                self._held.take(data)
            except EngineError as error:
                # Nothing of what is wrong may be stored by the threads.
                self._fail(error)
                raise
            self._changed.notify_all()
        if self._held.compared and not before:
            self._moved()

    def flush(self, timeout: float) -> bool:
        """Store what is there as it is; whether all of it is stored within `timeout` seconds."""
        with self._changed:
            self._held.flushing = True
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self.failure is not None or self._held.all_stored, timeout)
            self._held.flushing = False
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
                while self.failure is not None or (taken := self._held.next_part()) is None:
                    if self._ending:
                        return
                    self._changed.wait(self._held.until_due())
                held, part = taken
                data = bytes(held.data[part.start : part.end])
            self._note_settings(held, part.end)
            self._persistently(partial(self._archive.create, part, data, self._level))
            failpoint("wal.part.stored")
            with self._changed:
                self._held.part_stored(held, part)
                if held.whole:
                    self._goes(held.replaced(held.range))
                self._changed.notify_all()
            self._moved()

    def _store_segments(self) -> None:
        while True:
            with self._changed:
                while self.failure is not None or (held := self._held.next_segment()) is None:
                    if self._ending:
                        return
                    self._changed.wait()
                held.begun = True
            self._note_settings(held, held.segment.size)
            self._persistently(partial(self._archive.create, held.range, held.data, self._level))
            failpoint("wal.whole.stored")
            with self._changed:
                self._held.segment_stored(held)
                self._goes(held.replaced(held.range))
                self._changed.notify_all()
            self._moved()

    def _tidy(self) -> None:
        """Merge the open segment's parts when they are many, and remove what was replaced. Nothing waits for it."""
        while True:
            with self._changed:
                while (task := self._next_task()) is None:
                    if self._ending:
                        return
                    self._changed.wait(self._until_going())
            task()

    def _next_task(self) -> Callable[[], None] | None:
        if self.failure is not None:
            return None
        if self._going and self._until_going() == 0:
            return partial(self._remove, self._going.popleft()[1])
        if not self._ending and time.monotonic() >= self._merging_from:
            found = self._held.next_merge()
            return None if found is None else partial(self._merge, *found)
        return None

    def _goes(self, replaced: Replaced) -> None:
        if replaced.ours or replaced.theirs:
            self._going.append((time.monotonic() + self._keep, replaced))

    def _until_going(self) -> float | None:
        return max(0.0, self._going[0][0] - time.monotonic()) if self._going else None

    def _merge(self, held: HeldSegment, merged: StoredRange) -> None:
        key = self._archive.repository.layout.wal_range(merged)
        try:
            written = self._archive.create_object(key, self._frames(held, merged), self._level)
        except (ConflictError, DataError):
            raise
        except EngineError as error:
            _log.warning("the parts of WAL segment %s are not merged now: %s", held.segment.name, error)
            self._merging_from = time.monotonic() + _LONGEST_PAUSE
            return
        failpoint("wal.merged")
        with self._changed:
            self.stored_bytes += written
            self._goes(held.replaced(merged))
            held.parts.append(merged)
            if held.whole:
                self._goes(held.replaced(held.range))

    def _frames(self, held: HeldSegment, stored: StoredRange) -> Iterator[bytes]:
        for at in range(stored.start, stored.end, FRAME_SIZE):
            with self._changed:
                frame = bytes(held.data[at : min(at + FRAME_SIZE, stored.end)])
            yield frame

    def _remove(self, replaced: Replaced) -> None:
        failpoint("wal.tidying")
        try:
            remove_parts(self._archive.repository, replaced)
        except ConflictError:
            raise
        except EngineError as error:
            if isinstance(error, DataError) and replaced.by.whole:
                raise
            # Parts that stay are in nobody's way; the next start of a streamer removes them.
            _log.warning(
                "parts of WAL segment %s stay until the next start: %s", replaced.by.segment.name, error
            )
        failpoint("wal.tidied")

    def _note_settings(self, held: HeldSegment, end: int) -> None:
        """Before the WAL itself is stored, so that it is never acknowledged without."""
        if held.segment.start + held.scanned >= self._before:
            return
        with self._changed:
            data = bytes(held.data[:end])
        for change in settings_changes(data, held.scanned):
            if change.wal_level == MINIMAL:
                self._persistently(partial(self._archive.note_minimal, held.segment, change.offset))
                _log.error(
                    "GAP in the WAL at %s of timeline %d: the server ran with wal_level = minimal, and no restore "
                    "passes that; take a full backup now",
                    held.segment.start + change.offset,
                    held.segment.timeline,
                )
        held.scanned = end

    def _persistently(self, store: Callable[[], int]) -> None:
        """Store, for as long as it takes: the stream stands still meanwhile, and nothing is acknowledged."""
        pause = _SHORTEST_PAUSE
        while True:
            try:
                written = store()
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
        with self._changed:
            if self.trouble is not None:
                self.trouble = None
                _log.warning("WAL is stored again")
            self.stored_bytes += written
