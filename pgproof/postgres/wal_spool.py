"""The folder in pg_wal through which WAL files are handed to a server, which may run as another user than we.

It belongs to the server's user, and we may be root: whatever we do there goes through the open folder, follows no
link and replaces nothing but by rename. A file has its final name only when it is whole. Files fetched ahead have
the segment's name; an answer to a wish has another one, so that what nobody came for is never taken for newer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pgproof.errors import PreconditionError
from pgproof.model.wal_commands import ANSWER, ASK, FOLDER, OPEN, SERVED
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.osuser import OsUser

_NEW = ".new."
_FETCHED = re.compile(r"[0-9A-F]{24}\Z")
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Spool:
    """An open spool folder; use as a context manager."""

    def __init__(self, folder: Path, user: OsUser | None) -> None:
        self.folder = folder
        self._user = user
        with on_disk(folder):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            self.descriptor = os.open(folder, _FOLDER_FLAGS)
        try:
            self._take_over()
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, data_dir: Path, user: OsUser | None) -> Self:
        return cls(data_dir / FOLDER, user)

    def _take_over(self) -> None:
        status = os.fstat(self.descriptor)
        if status.st_uid not in {os.geteuid(), *([self._user.uid] if self._user else [])}:
            raise PreconditionError(
                "the folder for fetched WAL belongs to somebody else",
                hint=f"remove {self.folder}, then run this again",
                folder=self.folder,
            )
        with on_disk(self.folder):
            os.fchmod(self.descriptor, 0o700)
            self._give(self.descriptor)

    def _give(self, descriptor: int) -> None:
        if self._user is not None:
            os.fchown(descriptor, self._user.uid, self._user.gid)

    # files for the server

    def put(self, name: str, chunks: Iterable[bytes]) -> None:
        """A file of this name, which appears only when all of it is there.

        Raises PreconditionError or TransientError where the disk does not take it; nothing stays behind then.
        """
        new = f"{_NEW}{name}"
        with on_disk(self.folder):
            self.drop(new)
            descriptor = os.open(new, _WRITE_FLAGS, 0o600, dir_fd=self.descriptor)
        try:
            with on_disk(self.folder):
                self._give(descriptor)
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    with on_disk(self.folder):
                        view = view[os.write(descriptor, view) :]
            with on_disk(self.folder):
                self.rename(new, name)
        except BaseException:
            self.drop(new)
            raise
        finally:
            os.close(descriptor)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, and no link or folder."""
        try:
            status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return stat.S_ISREG(status.st_mode)

    def drop(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def rename(self, name: str, other: str) -> None:
        with on_disk(self.folder):
            os.rename(name, other, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def take_note(self, name: str, most: int = 200) -> str | None:
        """Read a short file and remove it; None if there is none."""
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.descriptor)
        except FileNotFoundError:
            return None
        try:
            text = os.read(descriptor, most)
        finally:
            os.close(descriptor)
            self.drop(name)
        return text.decode("ascii", "replace")

    def empty(self) -> None:
        """Remove every file of fetched WAL, also those of a worker that was killed, and what else was asked."""
        with os.scandir(self.descriptor) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if _FETCHED.match(name) or name.startswith((SERVED, _NEW, ASK, ANSWER)):
                self.drop(name)

    def open_for_wishes(self) -> None:
        self.put(OPEN, [b""])

    def remove(self) -> None:
        """Empty the folder and remove it, unless something of others is in it."""
        self.drop(OPEN)
        self.empty()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def write_atomically(target: Path, chunks: Iterable[bytes]) -> None:
    """Make or replace `target`, which is never seen in part; only its owner can read it."""
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with on_disk(target.parent):
            descriptor = os.open(new, _WRITE_FLAGS, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                with on_disk(target.parent):
                    file.write(chunk)
            with on_disk(target.parent):
                file.flush()
                os.fsync(file.fileno())
        with on_disk(target.parent):
            new.replace(target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
