"""Files and folders that outlive a power cut once the call has returned."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """A new file that only its owner can read; its name is durable after an fsync of the folder."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
        if hasattr(os, "posix_fadvise"):
            # A backup is not read again soon: it must not push the database out of the page cache.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def make_root(root: Path) -> None:
    """Make a directory, with those above it that are missing, so that it outlives a power cut."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in root.parents:
        # Who may not read a directory has not made anything in it either.
        with contextlib.suppress(PermissionError):
            settle_folder(folder)


def fsync_folder(folder: Path) -> None:
    """What is in the folder, by name, is durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def settle_folder(folder: Path) -> None:
    """What is in the folder is durable, whoever put it there."""
    try:
        fsync_folder(folder)
    except OSError as error:
        # A disk that cannot be written holds nothing that is not durable.
        if error.errno not in (errno.EROFS, errno.EINVAL):
            raise
