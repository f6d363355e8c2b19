"""Write a backup's files over those of an older state of the same cluster.

What was left of the old state is of the kinds that the backup has at the same paths: everything else was removed,
and pg_control. So nothing here follows a link or writes into a file that has a second name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from pgproof.failpoints import failpoint
from pgproof.model.filemap import FileEntry
from pgproof.postgres.data_directory import DataDirectory
from pgproof.postgres.disk_errors import disk_error

_ZEROS = bytes(1 << 20)


class DeltaDirectory(DataDirectory):
    """As DataDirectory, for directories that hold files already."""

    def settle(self, entry: FileEntry, zeros: Iterable[tuple[int, int]]) -> None:
        """Give a file its size, owner and mode, and write zeros into the given ranges of bytes.

        These are pages that no pack brings. What they held must not stay.
        """
        failpoint("delta.settle")
        fd = self.open_file(entry.path, entry.size, entry.mode)
        try:
            self._set_owner(fd, entry.mode)
            for start, end in zeros:
                for at in range(start, min(end, entry.size), len(_ZEROS)):
                    piece = memoryview(_ZEROS)[: min(end, entry.size) - at]
                    self.write(fd, entry.path, at, piece)
        except OSError as error:
            raise disk_error(error, self._path(entry.path)) from error
        finally:
            os.close(fd)

    def make_file(self, entry: FileEntry) -> None:
        """A file of zeros, whatever was in it."""
        os.close(self.open_file(entry.path, 0, entry.mode))
        super().make_file(entry)

    def read(self, path: bytes, offset: int, length: int) -> bytes:
        """What is in a settled file."""
        full = self._path(path)
        try:
            fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return os.pread(fd, length, offset)
            finally:
                os.close(fd)
        except OSError as error:
            raise disk_error(error, full) from error

    def _make_directory(self, path: bytes) -> None:
        with contextlib.suppress(FileExistsError):
            super()._make_directory(path)

    def _make_link(self, target: bytes, path: bytes) -> None:
        with contextlib.suppress(FileExistsError):
            super()._make_link(target, path)

    def _stretches(self, data: memoryview) -> list[tuple[int, int]]:
        """Zeros too: the file may hold something else."""
        return [(0, len(data))]
