"""WAL as it arrives, stored as one object per segment; knows how far it is durable without a hole."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from pgproof.errors import DataError
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.repository.frame_slots import FRAME_SIZE
from pgproof.repository.packs import PackBuilder, make_frame
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind

_PAGE_SIZE = 8192
_MAX_PENDING = 2


class WalWriter:
    """Takes WAL in order from the start of a segment; complete segments are stored in the background.

    `write` belongs to one thread; `durable`, `busy` and `check` may be asked from any.
    """

    def __init__(
        self, repository: Repository, timeline: int, start: Lsn, segment_size: int, level: int | None
    ) -> None:
        self._repository = repository
        self._segment = WalSegment.containing(timeline, start, segment_size)
        if self._segment.start != start:
            raise DataError("WAL must be taken from the start of a segment", start=start)
        self._level = level
        self._position = start
        self._buffer = bytearray()
        self._builder: PackBuilder | None = None
        self._pending: deque[tuple[Future[int], WalSegment]] = deque()
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="pgproof-wal-store")
        self._durable = start
        self._lock = threading.Lock()
        self.stored_bytes = 0

    @property
    def durable(self) -> Lsn:
        """Everything below is stored; the front moves only over finished segments, in order."""
        with self._lock:
            while self._pending and self._pending[0][0].done() and not self._pending[0][0].exception():
                future, segment = self._pending.popleft()
                self.stored_bytes += future.result()
                self._durable = segment.end
            return self._durable

    @property
    def busy(self) -> bool:
        return sum(not future.done() for future, _segment in list(self._pending)) >= _MAX_PENDING

    def check(self) -> None:
        for future, _segment in list(self._pending):
            if future.done():
                future.result()

    def write(self, start: Lsn, data: memoryview) -> None:
        if start != self._position:
            raise DataError("the WAL stream has a hole", expected=self._position, received=start)
        while data:
            room = min(FRAME_SIZE - len(self._buffer), self._segment.end - self._position)
            piece = data[:room]
            self._buffer += piece
            self._position += len(piece)
            data = data[len(piece) :]
            if len(self._buffer) == FRAME_SIZE or self._position == self._segment.end:
                self._close_frame()

    def _close_frame(self) -> None:
        if self._builder is None:
            key = self._repository.layout.segment(self._segment)
            self._builder = PackBuilder(self._repository.key, Kind.WAL, key, _PAGE_SIZE, tags=False)
        self._builder.add(make_frame(self._repository.hashes, _PAGE_SIZE, self._level, self._buffer))
        self._buffer = bytearray()
        if self._position == self._segment.end:
            future = self._uploader.submit(self._repository.create_wal, self._segment, self._builder)
            self._pending.append((future, self._segment))
            self._segment, self._builder = self._segment.next(), None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        # What is complete is stored, unless something went wrong: then nothing more is begun.
        self._uploader.shutdown(wait=True, cancel_futures=kind is not None)
