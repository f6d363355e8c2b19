"""Write a data directory so that it is either whole or refuses to start.

pg_control is withheld until all else is on disk: PostgreSQL does not start without it. Everything is
created in directories that were empty before, so no link of somebody else's can lead outside.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import weakref
from pathlib import Path

import numpy as np

from pgproof.errors import DataError
from pgproof.failpoints import failpoint
from pgproof.model.filemap import DIRECTORY, FileEntry, printable
from pgproof.postgres.disk_errors import disk_error, on_disk
from pgproof.postgres.osuser import OsUser

_PAGE = 8192
# What a directory of these names would do to whoever replaces or removes the file.
_ALWAYS_FILES = frozenset(
    (
        b"PG_VERSION",
        b"backup_label",
        b"backup_label.old",
        b"postgresql.auto.conf",
        b"postgresql.auto.conf.parked",
        b"postgresql.conf",
        b"postmaster.opts",
        b"postmaster.pid",
        b"recovery.signal",
        b"standby.signal",
        b"tablespace_map",
        b"tablespace_map.old",
    )
)
# PostgreSQL keeps everything of a tablespace in a directory of its version: whoever names the tablespace's
# place does not choose what files appear in it.
_IN_TABLESPACE = re.compile(rb"PG_[0-9]+_[0-9]+(?:/|\Z)")
_libc = ctypes.CDLL(None, use_errno=True)


class DataDirectory:
    """The target of a restore: `root` and one directory for each tablespace oid.

    Methods raise PreconditionError when a disk is full or refuses, DataError for a path that the backup
    should not have.
    """

    def __init__(self, root: Path, tablespaces: dict[int, Path], user: OsUser | None) -> None:
        self._root = os.fsencode(root)
        self._tablespaces = {oid: os.fsencode(path) for oid, path in tablespaces.items()}
        self._user = user
        self._mode = 0o700
        self._directories: set[bytes] = {b""}
        # Two threads that write one file spin on its lock in the kernel: one at a time took 0.2 CPU
        # seconds for a gigabyte, two at once 2.7.
        self._turn = threading.Lock()
        # In one directory the kernel makes one file after the other, and whoever waits for that spins.
        self._making = threading.Lock()
        # Open from before the first write on: an error of writing back is told to every descriptor that was open
        # then, but to one opened later only if nobody else on this file system has been told.
        self._places: list[int] = []
        weakref.finalize(self, _close, self._places)

    def make_roots(self, mode: int) -> None:
        """Make the data directory and the tablespaces' directories; `mode` says who may read the cluster."""
        self._mode = mode
        failpoint("restore.roots")
        for place in (self._root, *self._tablespaces.values()):
            with on_disk(place):
                os.makedirs(place, mode=0o700, exist_ok=True)
                os.chmod(place, mode)
                self._own(place)
        self._open_places()

    def make_directory(self, entry: FileEntry) -> None:
        failpoint("restore.directory")
        path = self._path(entry.path)
        if entry.path in _ALWAYS_FILES:
            raise DataError(
                "the backup has a directory where PostgreSQL has a file", path=printable(entry.path)
            )
        self._directories.add(entry.path)
        try:
            if entry.path.startswith(b"pg_tblspc/") and entry.path.count(b"/") == 1:
                oid = int(entry.path.partition(b"/")[2])
                self._make_link(self._tablespaces[oid], self._root + b"/" + entry.path)
                self._own(self._root + b"/" + entry.path)
                return
            self._make_directory(path)
            os.chmod(path, _directory_mode(entry.mode))
            self._own(path)
        except OSError as error:
            raise disk_error(error, path) from error

    def _make_directory(self, path: bytes) -> None:
        os.mkdir(path, 0o700)

    def _make_link(self, target: bytes, path: bytes) -> None:
        os.symlink(target, path)

    def make_plain_directory(self, path: bytes) -> None:
        """A directory of ours, unless the backup has it already."""
        if path in self._directories:
            return
        self.make_directory(FileEntry(path, DIRECTORY, 0, self._mode, 0, 0))

    def make_file(self, entry: FileEntry) -> None:
        """A file of zeros."""
        os.close(self.open_file(entry.path, entry.size, entry.mode))

    def open_file(self, path: bytes, size: int, mode: int) -> int:
        """A descriptor of a file that has its final size; to be closed by the caller."""
        failpoint("restore.open")
        full = self._path(path)
        try:
            with self._making:
                fd = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                status = os.fstat(fd)
                if status.st_size != size or status.st_size == 0:
                    os.ftruncate(fd, size)
                    self._set_owner(fd, mode)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            raise disk_error(error, full) from error
        return fd

    def _set_owner(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode & 0o777 & ~0o037 | 0o600)
        if self._user is not None:
            os.fchown(fd, self._user.uid, self._user.gid)

    def write(self, fd: int, path: bytes, offset: int, data: memoryview) -> None:
        """Write pages; those that are all zeros stay holes."""
        failpoint("restore.write")
        for start, end in self._stretches(data):
            piece, at = data[start:end], offset + start
            try:
                with self._turn:
                    while piece:
                        written = os.pwrite(fd, piece, at)
                        piece, at = piece[written:], at + written
            except OSError as error:
                raise disk_error(error, self._path(path)) from error

    def _stretches(self, data: memoryview) -> list[tuple[int, int]]:
        """What of the data has to be written into a file that was new."""
        return _not_zero(data)

    @property
    def file_mode(self) -> int:
        """The mode that PostgreSQL gives the files of this cluster."""
        return self._mode & 0o660

    def reserve(self, path: bytes, size: int) -> None:
        """Make a file without holes, so that a full disk shows now."""
        fd = self.open_file(path, size, self.file_mode)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            raise disk_error(error, self._path(path)) from error
        finally:
            os.close(fd)

    def write_file(self, path: bytes, content: bytes, mode: int | None = None) -> None:
        """A small file at once."""
        fd = self.open_file(path, len(content), self.file_mode if mode is None else mode)
        try:
            self.write(fd, path, 0, memoryview(content))
        finally:
            os.close(fd)

    def remove(self, path: bytes) -> None:
        failpoint("restore.remove")
        full = self._path(path)
        with on_disk(full):
            Path(os.fsdecode(full)).unlink(missing_ok=True)

    def sync(self) -> None:
        """All that was written is on disk, on every file system that was written to."""
        failpoint("restore.sync")
        if not self._places:
            self._open_places()  # of a directory that somebody else has written
        for place, fd in zip((self._root, *self._tablespaces.values()), self._places, strict=True):
            with on_disk(place):
                # One call for thousands of files; since Linux 5.8 it reports write errors.
                if _libc.syncfs(fd) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
                os.fsync(fd)
                self._sync_parent(place)

    def sync_file(self, path: bytes) -> None:
        """One file and its directory."""
        failpoint("restore.sync.file")
        full = self._path(path)
        for name, flags in ((full, os.O_RDONLY), (os.path.dirname(full), os.O_RDONLY | os.O_DIRECTORY)):
            with on_disk(name):
                fd = os.open(name, flags | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def _open_places(self) -> None:
        for place in (self._root, *self._tablespaces.values()):
            with on_disk(place):
                self._places.append(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def _sync_parent(self, place: bytes) -> None:
        fd = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _path(self, path: bytes) -> bytes:
        """Where a path of the backup really goes; a tablespace's files not through its link."""
        if path.rpartition(b"/")[0] not in self._directories:
            raise DataError("the backup has a file without its directory", path=printable(path))
        folder, _slash, rest = path.partition(b"/")
        if folder != b"pg_tblspc" or not rest:
            return self._root + b"/" + path
        oid, _slash, inner = rest.partition(b"/")
        if not oid.isdigit() or int(oid) not in self._tablespaces:
            raise DataError(
                "the backup has a file in a tablespace that it does not have", path=printable(path)
            )
        if inner and not _IN_TABLESPACE.match(inner):
            raise DataError("the backup has a file that no tablespace has", path=printable(path))
        place = self._tablespaces[int(oid)]
        return place + b"/" + inner if inner else place

    def _own(self, path: bytes) -> None:
        if self._user is not None:
            os.chown(path, self._user.uid, self._user.gid, follow_symlinks=False)


def _close(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _directory_mode(mode: int) -> int:
    return 0o750 if mode & 0o050 == 0o050 else 0o700


def _not_zero(data: memoryview) -> list[tuple[int, int]]:
    """The stretches of `data` that hold anything but pages of zeros."""
    whole = len(data) // _PAGE
    if not whole:
        return [(0, len(data))] if any(data) else []
    if len(data) == whole * _PAGE and np.frombuffer(data, np.uint64)[:: _PAGE // 8].all():
        return [(0, len(data))]  # pages that begin with something, their LSN, as nearly all do
    used = np.frombuffer(data[: whole * _PAGE], np.uint64).reshape(whole, -1).any(axis=1)
    flags = np.concatenate([[False], used, [len(data) > whole * _PAGE], [False]])
    if len(data) == whole * _PAGE:
        flags = np.delete(flags, whole + 1)
    edges = np.flatnonzero(flags[1:] != flags[:-1])
    return [(int(a) * _PAGE, min(int(b) * _PAGE, len(data))) for a, b in edges.reshape(-1, 2)]
