"""The directory that pg_dump writes into, read while it grows: what was read is punched out of its files.

A thread watches. If more waits to be read than there is room for, or more came than the rate allows, pg_dump is
stopped until that has changed. It has one lock and never waits for whoever reads.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pgproof.errors import PreconditionError
from pgproof.model.chunks import LOOK_AHEAD
from pgproof.model.job import Job
from pgproof.postgres.disk_errors import TEMPORARY, on_disk
from pgproof.postgres.inotify import CLOSED, CREATED, OVERFLOW, DirectoryWatch

MOST_WAITING = 192 << 20
_READ_AT_ONCE = 4 << 20
_LOOK_EVERY_MS = 20
_PUNCH_HOLE, _KEEP_SIZE = 2, 1


@dataclass(slots=True, eq=False)
class SpoolFile:
    """A file that pg_dump writes: what it has, what was read of it, and whether its writer has closed it.

    `number` is for whoever reads it.
    """

    name: bytes
    size: int = 0
    read: int = 0
    complete: bool = False
    number: int = -1
    descriptor: int = -1


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bytes of a file that were not read yet; `final` if they are its last."""

    file: SpoolFile
    data: memoryview
    final: bool


class DumpSpool:
    """Reads `directory`; `pause` and `resume` stop and continue the writer. A context manager."""

    def __init__(
        self,
        directory: Path,
        pause: Callable[[], None],
        resume: Callable[[], None],
        *,
        max_rate: int | None = None,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._directory = directory
        self._pause, self._resume = pause, resume
        self._rate = max_rate * 1024 if max_rate else None
        self._most = most_waiting
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._lock = threading.Condition()
        self._files: dict[bytes, SpoolFile] = {}
        self._growing: dict[bytes, SpoolFile] = {}
        # Those that are complete and not read to their end, in the order in which they were closed.
        self._whole: deque[SpoolFile] = deque()
        self._waiting = self._total = 0
        self._paused = self._lost_news = self._gathered = self._stopping = False
        self._begun = time.monotonic()
        self._buffer = memoryview(mmap.mmap(-1, _READ_AT_ONCE + LOOK_AHEAD))
        self._watch = DirectoryWatch(directory)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pgproof-spool")
        self._watching: Future[None] | None = None

    def next(self, ended: Callable[[], bool], job: Job) -> Piece | None:
        """The next piece that can be cut, or None when all is read and the writer has `ended`.

        It is valid until the next call. `ended` may raise.
        """
        while True:
            job.checkpoint()
            over = ended()
            if self._watching is not None and self._watching.done():
                self._watching.result()
            with self._lock:
                found = self._choose()
                if found is None and not over:
                    self._lock.wait(0.1)
                    continue
            if found is None:
                # Nobody writes any more: what was not closed, or whose news were lost, is complete as it is.
                with self._lock:
                    self._gather()
                    found = self._choose()
                if found is None:
                    return None
            return self._piece(found)

    def done(self, piece: Piece, count: int) -> None:
        """The first `count` bytes of the piece are taken care of; they are removed from the disk."""
        file = piece.file
        before = file.read
        with on_disk(self._directory, TEMPORARY):
            if piece.final and count == len(piece.data):
                (self._directory / os.fsdecode(file.name)).unlink()
                os.close(file.descriptor)
                file.descriptor = -1
            else:
                self._punch(file, before, before + count)
        with self._lock:
            file.read += count
            self._waiting -= count
            if file.descriptor < 0:
                self._whole.remove(file)
                del self._files[file.name]

    @property
    def total(self) -> int:
        """How much was written until now."""
        return self._total

    def _choose(self) -> SpoolFile | None:
        """Files that are complete go first: they are removed as a whole."""
        if self._whole:
            return self._whole[0]
        for file in self._growing.values():
            if file.size - file.read >= LOOK_AHEAD:
                return file
        return None

    def _piece(self, file: SpoolFile) -> Piece:
        with on_disk(self._directory, TEMPORARY):
            if file.descriptor < 0:
                path = self._directory / os.fsdecode(file.name)
                file.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            complete, size = file.complete, file.size
            wanted = min(size - file.read, len(self._buffer))
            got = os.preadv(file.descriptor, [self._buffer[:wanted]], file.read) if wanted else 0
        return Piece(file, self._buffer[:got], complete and file.read + got == size)

    def _punch(self, file: SpoolFile, start: int, end: int) -> None:
        page = mmap.PAGESIZE
        first, last = start // page * page, end // page * page
        if last <= first:
            return
        arguments = (ctypes.c_long(first), ctypes.c_long(last - first))
        if self._libc.fallocate(file.descriptor, _PUNCH_HOLE | _KEEP_SIZE, *arguments) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise PreconditionError(
                "the scratch directory's file system cannot free the part of a file that was read",
                hint="set scratch_dir to a directory on ext4, xfs, btrfs or tmpfs",
                directory=self._directory,
                reason=reason,
            )

    def _run(self) -> None:
        while not self._stopping:
            news = list(self._watch.news(_LOOK_EVERY_MS))
            with self._lock:
                self._take(news)
                self._measure()
                self._lock.notify()
            self._steer()
            if news:
                # News come in bursts, and each burst is worth one look.
                time.sleep(_LOOK_EVERY_MS / 1000)

    def _take(self, news: list[tuple[int, bytes]]) -> None:
        if self._gathered:
            return  # everything is known, and part of it may be gone already
        for mask, name in news:
            if mask & OVERFLOW:
                self._lost_news = True
            elif mask & CREATED:
                self._add(name)
            elif mask & CLOSED and name in self._growing:
                self._complete(self._growing[name])
        if self._lost_news:
            self._lost_news = False
            self._add_all()

    def _add(self, name: bytes) -> None:
        if name not in self._files:
            self._files[name] = self._growing[name] = SpoolFile(name)

    def _add_all(self) -> None:
        with on_disk(self._directory, TEMPORARY):
            for path in self._directory.iterdir():
                self._add(os.fsencode(path.name))

    def _gather(self) -> None:
        self._gathered = True
        self._add_all()
        for file in list(self._growing.values()):
            self._complete(file)

    def _complete(self, file: SpoolFile) -> None:
        self._look(file)
        file.complete = True
        del self._growing[file.name]
        self._whole.append(file)

    def _measure(self) -> None:
        for file in self._growing.values():
            self._look(file)

    def _look(self, file: SpoolFile) -> None:
        with on_disk(self._directory, TEMPORARY):
            size = (self._directory / os.fsdecode(file.name)).lstat().st_size
        self._waiting += size - file.size
        self._total += size - file.size
        file.size = size

    def _steer(self) -> None:
        too_fast = self._rate is not None and self._total > self._rate * (time.monotonic() - self._begun)
        if not self._paused and (self._waiting > self._most or too_fast):
            self._paused = True
            self._pause()
        elif self._paused and self._waiting < self._most // 2 and not too_fast:
            self._paused = False
            self._resume()

    def __enter__(self) -> Self:
        self._watching = self._thread.submit(self._run)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping = True
        self._thread.shutdown()
        self._watch.__exit__()
        for file in self._files.values():
            if file.descriptor >= 0:
                os.close(file.descriptor)
