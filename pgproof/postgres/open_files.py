"""The files that one thread of a restore is writing, and their way to the disk.

What is written is sent to the disk at once and then dropped from the page cache: the disk works while we
decompress, a restore does not push everything else out of memory, and the kernel reuses a few pages in
place of claiming new ones (4.7 GB took 7.4 s through the page cache and 2.9 s so).
"""

from __future__ import annotations

import ctypes
import os

from pgproof.postgres.data_directory import DataDirectory

_libc = ctypes.CDLL(None, use_errno=True)
# sync_file_range(2): start writing; or wait for what is being written, write, and wait for that.
_START, _COMPLETE = 2, 7
_FLUSH_EVERY = 16 << 20
# Below this a file is left to the sync at the end, which does thousands in one go.
_WORTH_FLUSHING = 1 << 20


class OpenFiles:
    """Descriptors of files being written; the oldest are closed first."""

    def __init__(self, directory: DataDirectory, most: int = 64) -> None:
        self._directory = directory
        self._most = most
        self._open: dict[bytes, int] = {}
        self._dirty: dict[int, tuple[int, int]] = {}
        self._started: dict[int, tuple[int, int]] = {}
        self._unflushed = 0

    def write(self, path: bytes, size: int, mode: int, offset: int, data: memoryview) -> None:
        fd = self._open.get(path)
        if fd is None:
            while len(self._open) >= self._most:
                self._close(next(iter(self._open)))
            fd = self._open[path] = self._directory.open_file(path, size, mode)
        self._directory.write(fd, path, offset, data)
        first, last = self._dirty.get(fd, (offset, offset))
        self._dirty[fd] = min(first, offset), max(last, offset + len(data))
        self._unflushed += len(data)
        if self._unflushed >= _FLUSH_EVERY:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._flush()
        for path in list(self._open):
            self._close(path)

    def _flush(self) -> None:
        """Start the writing of what came since the last time; complete and drop what was started then."""
        self._unflushed = 0
        for fd, (first, last) in self._dirty.items():
            if last - first >= _WORTH_FLUSHING:
                _sync_range(fd, first, last, _START)
        for fd, (first, last) in self._started.items():
            if last - first >= _WORTH_FLUSHING:
                _sync_range(fd, first, last, _COMPLETE)
                os.posix_fadvise(fd, first, last - first, os.POSIX_FADV_DONTNEED)
        self._started, self._dirty = self._dirty, {}

    def _close(self, path: bytes) -> None:
        fd = self._open.pop(path)
        self._dirty.pop(fd, None)
        self._started.pop(fd, None)
        os.close(fd)


def _sync_range(fd: int, first: int, last: int, flags: int) -> None:
    # Only a help: an error shows again at the syncfs that the restore waits for.
    _libc.sync_file_range(fd, ctypes.c_int64(first), ctypes.c_int64(last - first), flags)
