"""A bucket in a local directory that keeps its promises after a power cut.

An object is written to a temporary file, fsynced, linked to its name (link refuses an existing
name, which makes the create conditional), and its folder is fsynced. Files are 0600, folders 0700.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pgproof.errors import ConflictError, DataError, PreconditionError, TransientError
from pgproof.repository.bucket import MAX_WHOLE, ObjectInfo
from pgproof.repository.durable import fsync_folder, settle_folder, write_durably
from pgproof.repository.points import storage_point

# A folder, or what would lie below an object, is no object either.
# ELOOP: a link to itself lies where the object should.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
STAGING = ".staging-"


class LocalBucket:
    """Objects as files below `root`, which must exist (only `init` makes it)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # Folders whose own names are durable, as far as this process has seen to it.
        self._durable: set[Path] = set()

    @property
    def location(self) -> str:
        return str(self._root)

    def read(self, key: str) -> bytes:
        storage_point("read", key)
        try:
            with os.fdopen(self._open(key), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > MAX_WHOLE:
                    raise DataError("an object is too large to be one", key=key, size=size)
                return file.read()
        except OSError as error:
            raise self._translated(error, key) from error

    def read_range(self, key: str, start: int, length: int) -> bytes:
        storage_point("read", key)
        try:
            fd = self._open(key)
            try:
                data = os.pread(fd, length, start)
                while len(data) < length and (more := os.pread(fd, length - len(data), start + len(data))):
                    data += more
            finally:
                os.close(fd)
        except OSError as error:
            raise self._translated(error, key) from error
        if len(data) < length:
            raise DataError(
                "an object is shorter than expected", key=key, wanted=start + length, size=start + len(data)
            )
        return data

    def _open(self, key: str) -> int:
        path = self._path(key)
        # Links to devices and into /proc, and sockets, answer to being opened or read as a broken disk does.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise IsADirectoryError(errno.EISDIR, "not a file", key)
        # Without waiting for whoever should write to a named pipe.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise IsADirectoryError(errno.EISDIR, "not a file", key)
        return fd

    def create(self, key: str, data: bytes) -> None:
        storage_point("create", key, "before")
        path = self._path(key)
        staged = path.parent / f"{STAGING}{secrets.token_hex(8)}"
        try:
            self._stage(staged, data)
            storage_point("create", key, "staged")
            taken = None
            try:
                os.link(staged, path)
            except FileExistsError as error:
                taken = error
            finally:
                staged.unlink(missing_ok=True)
            # Also of a name that is taken: the winner may not have got as far as its fsync yet.
            fsync_folder(path.parent)
            if taken:
                raise taken
            storage_point("create", key, "after")
        except FileExistsError as error:
            raise ConflictError("an object of this name exists", key=key) from error
        except OSError as error:
            raise self._translated(error, key) from error

    def _stage(self, staged: Path, data: bytes) -> None:
        for attempt in range(10):
            self._make_folders(staged.parent)
            try:
                write_durably(staged, data)
                return
            except FileNotFoundError:
                # Somebody removed the folder because it had become empty: make it again.
                if attempt == 9:
                    raise
            except OSError:
                # What was wrong first is what the operator must know.
                with contextlib.suppress(OSError):
                    staged.unlink(missing_ok=True)
                raise

    def head(self, key: str) -> ObjectInfo | None:
        storage_point("head", key)
        try:
            status = self._path(key).stat()
        except OSError as error:
            if self._is_absent(error):
                return None
            raise self._translated(error, key) from error
        if not stat.S_ISREG(status.st_mode):
            return None
        return ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        storage_point("list", prefix)
        folder = self._path(prefix.rstrip("/")) if prefix else self._root
        try:
            yield from self._walk(folder, prefix, self._settle, after)
        except OSError as error:
            raise self._translated(error, prefix) from error

    def delete(self, key: str) -> None:
        storage_point("delete", key, "before")
        path = self._path(key)
        try:
            path.unlink()
            fsync_folder(path.parent)
        except OSError as error:
            if self._is_absent(error):
                return
            raise self._translated(error, key) from error
        self._remove_empty_folders(path.parent)
        storage_point("delete", key, "after")

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not all(part and not part.startswith(".") and "\0" not in part for part in parts):
            raise DataError("not a key of this repository", key=key)
        return self._root.joinpath(*parts)

    def _walk(
        self,
        folder: Path,
        prefix: str,
        when_read: Callable[[Path], None] = lambda _folder: None,
        after: str = "",
    ) -> Iterator[ObjectInfo]:
        try:
            entries = list(os.scandir(folder))
            when_read(folder)
        except (FileNotFoundError, NotADirectoryError):
            if not self._root.is_dir():
                raise
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/", after=after)
            elif f"{prefix}{entry.name}" > after:  # a long archive is not looked at file by file
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue  # deleted since the folder was read
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                yield ObjectInfo(f"{prefix}{entry.name}", status.st_size, modified)

    def _make_folders(self, folder: Path) -> None:
        if not self._root.is_dir():
            # An unmounted disk must not get a fresh repository under its mount point.
            raise FileNotFoundError(errno.ENOENT, "the repository's directory is missing", str(self._root))
        for each in self._way_to(folder):
            if each.is_dir() and each in self._durable:
                continue
            each.mkdir(mode=0o700, exist_ok=True)
            # Also of a folder that is there: whoever made it may have died before its fsync, or not be there yet.
            fsync_folder(each.parent)
            self._durable.add(each)

    def _settle(self, folder: Path) -> None:
        """What was read in a folder outlives a power cut, as what an object store lists does.

        A run that died between an object's link and its fsync leaves it visible, and the next run may build
        on it. Folders below are not settled: a list of all backups must not wait for the disk a thousand times.
        """
        for each in self._way_to(folder):
            if each not in self._durable:
                settle_folder(each.parent)
                self._durable.add(each)
        settle_folder(folder)

    def _way_to(self, folder: Path) -> Iterator[Path]:
        """The folders below the root that lead to `folder`, which is the last."""
        parts = folder.relative_to(self._root).parts
        return (self._root.joinpath(*parts[: number + 1]) for number in range(len(parts)))

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder != self._root:
            self._durable.discard(folder)
            try:
                folder.rmdir()
            except OSError:
                return  # not empty, or somebody was faster
            folder = folder.parent

    def _is_absent(self, error: OSError) -> bool:
        """No such object, in a directory that is there: an unmounted disk proves nothing absent."""
        return error.errno in _ABSENT and self._root.is_dir()

    def _translated(
        self, error: OSError, key: str
    ) -> ConflictError | DataError | PreconditionError | TransientError:
        if error.errno == errno.ENOENT and not self._root.is_dir():
            return PreconditionError(
                "the repository's directory is missing",
                hint="mount or create it; for a new repository run `pgproof init`",
                directory=self._root,
            )
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and not self._root.is_dir():
            return PreconditionError(
                "the repository's place is not a directory",
                hint="correct BACKUP_DIR or --repository",
                directory=self._root,
            )
        if error.errno in _ABSENT:
            return DataError("an object is missing", key=key)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return PreconditionError(
                "the repository's disk is full",
                hint="free space or move the repository to a larger disk; nothing was half stored",
                directory=self._root,
                **disk_figures(self._root),
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            owner = f"make it belong to the user who runs this (chown -R … {self._root}; chmod 700)"
            writable = "mount it writable; a disk that failed may have become read-only: see the kernel's log"
            return PreconditionError(
                "no permission in the repository's directory",
                hint=writable if error.errno == errno.EROFS else owner,
                key=key,
                reason=error.strerror,
            )
        return TransientError(
            "the repository's disk did not answer as it should",
            hint="check the disk or mount (the kernel's log tells more), then run this again",
            key=key,
            reason=error.strerror,
        )


def disk_figures(folder: Path) -> dict[str, str]:
    """How large the disk of `folder` is and how much of it is free, for messages."""
    status = os.statvfs(folder)
    free, size = (blocks * status.f_frsize / 1e6 for blocks in (status.f_bavail, status.f_blocks))
    return {"free_mb": f"{free:,.1f}", "disk_mb": f"{size:,.1f}"}
